"""This room builds TensorRT engines from a bundle's ONNX graphs on the device that runs them, and caches them.

ONNX files and options come in, engines' bytes with their records go out. Nothing here needs a GPU to be imported, nor
knows CUDA or the backends: what the GPU is comes in as a ``Gpu``.

    library           the only importer of tensorrt and tensorrt_rtx, and what they say while they work
    gpu               what a GPU is, and whether there is memory and disk enough to build for it
    engine_options    batch profile, workspace, and whether to build at all
    progress          who is told while engines are built
    build             ONNX bytes -> engine bytes; the engine of a graph: from the cache, else built
    cache             engines on disk, each bound to what it was built from and for
    kept_graph        beside them, graphs that ONNX Runtime optimized for this CPU
    ahead             engines for desktop RTX cards, built where there is no GPU
"""
