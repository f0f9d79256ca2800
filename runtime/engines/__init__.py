"""TensorRT engines: built from a bundle's ONNX graph on the device that runs them, cached, and looked into.

    library     the only importer of tensorrt and tensorrt_rtx
    options     batch profile, workspace, and whether to build at all
    headroom    is there disk and memory enough to build
    build       ONNX bytes -> engine bytes; messages and progress on the way
    network     what TensorRT made of the graph: layers, loops, which products have quantized inputs
    cache       engines on disk, each bound to what it was built from and for
    prepare     the engine of a graph: from the cache, else built
    ahead       engines for desktop RTX cards, built where there is no GPU

Nothing here needs a GPU to be imported, nor CUDA: what the GPU is comes as a ``Gpu``.
"""
