"""This room builds TensorRT engines from a bundle's ONNX graphs on the device that runs them, and caches them.

ONNX files and options come in, engines' bytes with their records go out. Nothing here needs a GPU to be imported, nor
knows CUDA or the backends: what the GPU is comes in as a ``Gpu``.

    library     the only importer of tensorrt and tensorrt_rtx
    options     batch profile, workspace, and whether to build at all
    headroom    whether there is disk and memory enough to build
    build       ONNX bytes -> engine bytes; messages and progress on the way
    network     what TensorRT made of the graph: layers, loops, which products have quantized inputs
    cache       engines on disk, each bound to what it was built from and for
    prepare     the engine of a graph: from the cache, else built
    ahead       engines for desktop RTX cards, built where there is no GPU
"""
