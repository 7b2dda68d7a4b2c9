"""Whose fault a failure is, from the words that torch, CUDA and NCCL have for it."""

from __future__ import annotations

import pytest

from ecm_cluster.attempts import causes, endings, failures

OUT_OF_MEMORY = ("OutOfMemoryError: CUDA out of memory. Tried to allocate {0} MiB. GPU 0 has a total capacity of 79.11 "
                 "GiB of which {1} MiB is free. Process {2} has 78.9 GiB memory in use.")

TEXTS = [
    ("out of GPU memory", OUT_OF_MEMORY.format(20, 14, 4242)),
    ("out of GPU memory", "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    ("out of GPU memory", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("out of GPU memory", "AcceleratorError: CUDA error: out of memory"),
    ("GPU failure", "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    ("GPU failure", "AcceleratorError: CUDA error: an illegal memory access was encountered\nCompile with "
                    "`TORCH_USE_CUDA_DSA` to enable device-side assertions."),
    ("GPU failure", "RuntimeError: CUDA error: unspecified launch failure"),
    ("GPU failure", "RuntimeError: CUDA error: unknown error"),
    ("GPU failure", "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    ("GPU failure", "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ("GPU failure", "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ("GPU failure", "terminate called after throwing an instance of 'c10::DistBackendError'\n what(): [Rank 1] Process "
                    "group watchdog thread terminated with exception: CUDA error: uncorrectable NVLink error detected"),
    ("GPU failure", "DistBackendError: NCCL error in: NCCLUtils.hpp:275, unhandled cuda error"),
    ("GPU failure", "kernel: NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."),
    ("crashed", "RuntimeError: CUDA error: device-side assert triggered"),
    ("crashed", "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    ("crashed", "RuntimeError: CUDA error: invalid device ordinal"),
    ("crashed", "RuntimeError: CUDA error: invalid configuration argument"),
    ("crashed", "ValueError: the loss is not a number"),
    ("crashed", "MemoryError: "),
    ("crashed", "UserWarning: out of GPU memory in the assignment of 9 boxes; done on the CPU"),
    ("crashed", "DistBackendError: NCCL error: remote process exited or there was a network error"),
]


@pytest.mark.parametrize(("cause", "text"), TEXTS)
def test_the_words_of_an_error_tell_its_cause(cause, text):
    assert causes.of_error(text) == cause
    assert cause in causes.CAUSES


@pytest.mark.parametrize(("text", "follows"), [
    ("DistBackendError: NCCL error: remote process exited or there was a network error", True),
    ("RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer", True),
    ("DistBackendError: NCCL error, unhandled cuda error", False),
    ("ValueError: the loss is not a number", False)])
def test_an_error_that_is_left_to_say_when_another_rank_has_gone_only_follows(text, follows):
    assert failures.follows_another(text) is follows


def test_an_exception_becomes_an_end_with_cause_and_remedy():
    end = failures.end_of(RuntimeError(OUT_OF_MEMORY.format(20, 14, 4242)), rank=3)
    assert end["cause"] == "out of GPU memory"
    assert end["detail"].startswith("rank 3: RuntimeError: OutOfMemoryError: CUDA out of memory.")
    assert end["detail"].endswith("; " + causes.CAUSES["out of GPU memory"].remedy)
    assert failures.end_of(failures.DeviceStuck("x"), 0)["cause"] == "hung"
    assert failures.end_of(failures.NotStartable("x"), 0)["cause"] == "not startable"
    assert failures.end_of(ConnectionResetError("Connection reset by peer"), 0)["follows"]


def test_errors_that_differ_by_their_numbers_are_the_same_error(tmp_path):
    trace = 'Traceback (most recent call last):\n  File "train.py", line {line}, in step\n    run()\n'
    one, other = (trace.format(line=7) + OUT_OF_MEMORY.format(*n) for n in ((20, 14, 4242), (512, 9.5, 17)))
    assert endings.without_numbers(one) == endings.without_numbers(other)
    assert endings.without_numbers(one) != endings.without_numbers(trace.format(line=8) + OUT_OF_MEMORY), "elsewhere"


@pytest.mark.parametrize(("code", "words", "cause", "how"), [
    (-6, "what(): CUDA error: uncorrectable ECC error encountered", "GPU failure",
     "killed by SIGABRT after a GPU failure"),
    (-6, "what(): Watchdog caught collective operation timeout: NCCL", "killed", "killed by SIGABRT"),
    (-9, "CUDA error: uncorrectable ECC error encountered", "killed", "killed by SIGKILL"),
    (1, "some output", "crashed", "exit code 1")])
def test_a_worker_that_could_not_say_why_it_died_is_read_from_its_log(tmp_path, code, words, cause, how):
    log = tmp_path / "rank000.log"
    log.write_text("CUDA error: of an attempt before\n")
    begin = log.stat().st_size
    log.write_text(log.read_text() + words + "\n")
    end = failures.of_exit(code, log, begin)
    assert (end["cause"], end["how"]) == (cause, how)
    assert failures.of_exit(-6, log.with_name("none"), 0)["cause"] == "killed"
    if "Watchdog" in words:
        assert end["follows"], "it waited for a rank that had gone"
