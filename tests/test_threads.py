"""Threads: concurrent callers from a cold start, forks, and the number of threads."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from oracle import draw, same_bits

import kosa
from kosa.cpu import threads


@pytest.fixture(autouse=True)
def as_before():
    before = threads.num_threads()
    yield
    kosa.set_num_threads(before)


def run(code, **environment):
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


START = """
import os, sys, threading
import numpy as np, kosa
from kosa.cpu import threads
rng = np.random.default_rng(0)
z = rng.normal(size=(6000, 100)).astype(np.float32)  # 3 chunks
y = rng.integers(0, 100, 6000)
def call():
    return kosa.cross_entropy_with_grad(y, logits=z)
def check(result, expected):
    assert result.loss == expected.loss and np.array_equal(result.grad, expected.grad)
"""


def test_eight_threads_at_once_from_a_cold_start_compile_and_agree(tmp_path):
    code = (
        START
        + """
barrier, results, errors = threading.Barrier(8), [None] * 8, []
def work(i):
    try:
        barrier.wait()
        results[i] = call()
    except BaseException as error:
        errors.append(error)
workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert not errors, errors
for result in results: check(result, results[0])
from kosa import definition
assert abs(results[0].loss - definition.loss(y, logits=z)) < 1e-6
print("agree")
"""
    )
    assert run(code, KOSA_CACHE_DIR=tmp_path, KOSA_NUM_THREADS=3) == ["agree"]


def test_concurrent_callers_get_their_own_results():
    kosa.set_num_threads(3)
    cases = [
        draw(np.random.default_rng(i), "logits", "float32", None, (4000, 100), -1, 3.0) for i in range(8)
    ]
    expected = [kosa.cross_entropy_with_grad(t, logits=z) for t, z in cases]
    found, errors = [[] for _ in cases], []

    def work(i):
        try:
            for _ in range(4):
                found[i].append(kosa.cross_entropy_with_grad(cases[i][0], logits=cases[i][1]))
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    for results, want in zip(found, expected, strict=True):
        assert len(results) == 4
        for result in results:
            same_bits(result.loss, want.loss)
            same_bits(result.grad, want.grad)


def test_changing_the_number_of_threads_under_running_calls():
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (8000, 100), -1, 3.0)
    expected = kosa.cross_entropy_with_grad(targets, logits=z)
    stop, errors = threading.Event(), []

    def change():
        n = 0
        while not stop.is_set():
            n += 1
            kosa.set_num_threads(1 + n % 5)
            time.sleep(0.0005)

    def work():
        try:
            for _ in range(25):
                result = kosa.cross_entropy_with_grad(targets, logits=z)
                same_bits(result.loss, expected.loss)
                same_bits(result.grad, expected.grad)
        except BaseException as error:
            errors.append(error)

    changer, workers = threading.Thread(target=change), [threading.Thread(target=work) for _ in range(3)]
    for thread in (changer, *workers):
        thread.start()
    for worker in workers:
        worker.join()
    stop.set()
    changer.join()
    assert not errors


def test_a_pool_that_closes_between_two_submissions_leaves_no_chunk_unfinished(monkeypatch):
    kosa.set_num_threads(3)
    pool, submitted = threads._shared_pool(), []

    class Closing:
        def submit(self, work):
            if submitted:
                raise RuntimeError("cannot schedule new futures after shutdown")
            submitted.append(work)
            future = pool.submit(work)
            started.wait(5)
            return future

    monkeypatch.setattr(threads, "_shared_pool", Closing)
    started, done = threading.Event(), []

    def worker():
        started.set()

        def chunk(i):
            time.sleep(0.2 if threading.current_thread() is not threading.main_thread() else 0.01)
            done.append(i)

        return chunk

    threads.for_each_chunk(4, worker)
    assert sorted(done) == [0, 1, 2, 3]


def test_what_a_call_used_is_let_go_when_it_returns_even_if_the_pool_is_busy():
    class Scratch:
        pass

    kosa.set_num_threads(2)
    busy = threading.Event()
    waiting = threads._shared_pool().submit(busy.wait, 10)
    scratch = Scratch()
    gone = weakref.ref(scratch)
    try:
        threads.for_each_chunk(4, lambda scratch=scratch: lambda chunk: None)
        del scratch
        gc.collect()
        assert gone() is None
    finally:
        busy.set()
        waiting.result()


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("chunks", [0, 1, 2, 7, 100])
def test_every_chunk_is_run_once(number, chunks):
    kosa.set_num_threads(number)
    done = []
    threads.for_each_chunk(chunks, lambda: done.append)
    assert sorted(done) == list(range(chunks))


@pytest.mark.parametrize("number", [1, 2, 4])
def test_an_error_in_a_chunk_reaches_the_caller(number):
    kosa.set_num_threads(number)

    def chunk(i):
        raise OSError(f"chunk {i}")

    with pytest.raises(OSError, match="chunk"):
        threads.for_each_chunk(8, lambda: chunk)
    kosa.cross_entropy(np.zeros(5000, int), logits=np.zeros((5000, 100)))  # the pool has survived


def test_no_more_threads_work_than_were_set():
    kosa.set_num_threads(3)
    seen = set()

    def chunk(i):
        seen.add(threading.get_ident())
        time.sleep(0.005)

    threads.for_each_chunk(60, lambda: chunk)
    assert threading.get_ident() in seen
    assert len(seen) <= 3


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_a_forked_child_starts_with_one_thread_and_agrees():
    code = (
        START
        + """
kosa.set_num_threads(3)
expected = call()
child = os.fork()
if child == 0:
    try:
        assert threads.num_threads() == 1
        check(call(), expected)
        kosa.set_num_threads(2)
        check(call(), expected)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert threads.num_threads() == 3
check(call(), expected)
print("agree")
"""
    )
    assert run(code) == ["agree"]


@needs_fork
def test_a_fork_while_other_threads_work_does_not_hang():
    code = (
        START
        + """
kosa.set_num_threads(3)
expected = call()
stop = threading.Event()
def work():
    while not stop.is_set(): call()
workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers: worker.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        try:
            check(call(), expected)
            kosa.set_num_threads(2)
            check(call(), expected)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for worker in workers: worker.join()
print("agree")
"""
    )
    assert run(code) == ["agree"]


@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=needs_fork)])
def test_processes_of_multiprocessing_agree(method, tmp_path):
    script = tmp_path / "script.py"
    task = "def task(_):\n    return call().loss, threads.num_threads()\n"
    main = f"""
if __name__ == "__main__":
    import multiprocessing
    kosa.set_num_threads(3)
    expected = call()
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        for loss, number in pool.map(task, range(4)):
            assert loss == expected.loss
            assert number == (1 if {method!r} == "fork" else 2), number
    print("agree")
"""
    script.write_text(START + task + main)
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "KOSA_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["agree"]


def test_the_environment_sets_the_number_of_threads():
    code = "from kosa.cpu import threads; print(threads.num_threads())"
    assert run(code, KOSA_NUM_THREADS=7) == ["7"]
    assert run(code, KOSA_NUM_THREADS=" 2 ") == ["2"]
    default = int(run(code, KOSA_NUM_THREADS="")[0])
    assert 1 <= default <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_default_is_the_processors_that_this_process_may_use():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n" \
        "from kosa.cpu import threads; print(threads.num_threads())"  # fmt: skip
    assert run(code, KOSA_NUM_THREADS="") == ["1"]


@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5"])
def test_a_bad_environment_is_named(value):
    code = """
import kosa
from kosa.cpu import threads
try:
    threads.num_threads()
except ValueError as error:
    print(error)
kosa.set_num_threads(2)
assert threads.num_threads() == 2
"""
    text = " ".join(run(code, KOSA_NUM_THREADS=value))
    assert text == f"KOSA_NUM_THREADS must be a positive integer, but is '{value}'"
