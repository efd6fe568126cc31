"""CUDA tensors without a GPU, on a CPU-only torch, to run the GPU's branches of the code where there is none.

The pretend GPU (pretend_gpu.py) computes. Its tensors say that they are on cuda:0 and have their values on the CPU;
what CUDA refuses is refused: tensors on different devices, a generator of the other device, .numpy(). It shows that a
run gets through with the right results, and counts bytes (allocations.py), synchronizations and copies (device_log.py).

It doesn't show what kernels require of their inputs (dtype, strides, alignment), races between streams, or time.

    python -m tools.virtual_gpu dreambooth train NAME ...        a module on the pretend GPU
"""
