"""CUDA tensors without a GPU, on a CPU-only torch, to run the GPU's branches of the code where there is none.

Two virtual devices share the device guard (device_guard.cpp), the replacements of torch.cuda (cuda_api.py), the bytes
that are counted (allocations.py) and the log of synchronizations and copies (device_log.py):

- The pretend GPU (pretend_gpu.py) computes. Its tensors say that they are on cuda:0 and have their values on the CPU;
  what CUDA refuses is refused: tensors on different devices, a generator of the other device, .numpy(). It shows that
  a run gets through with the right results.
- The fake GPU (fake_gpu.py) computes nothing: tensors of full size without values. traced_run.py has the memory of a
  run from it, tools/bench_memory.py a table.

Neither shows what kernels require of their inputs (dtype, strides, alignment), races between streams, or time.

    python -m tools.virtual_gpu dreambooth train NAME ...        a module on the pretend GPU
"""
