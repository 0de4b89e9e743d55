"""How a figure is taken on a GPU: time between events on the device, memory of its allocator, and the two floors."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.peers import Peer
from benchmarks.rows import Row
from benchmarks.timing import Measured, ratio, versions

_TURN = 0.02  # seconds
_MOST_CALLS = 50
_SLOW = 1.0  # seconds; who takes longer is called once a turn, in few turns


class Place:
    """A device to measure on. On the host, sizes are for trying the script, and figures mean nothing."""

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.is_cuda = device.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.is_cuda else "host, to try the script"

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.quick else full

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any], calls: int = 1) -> float:
        """Of one call, by the clock of the device."""
        self.wait()
        if not self.is_cuda:
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for _ in range(calls):
            call()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3 / calls

    def replayed(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call as a CUDA graph, so that the host does nothing but to start it; on the host the call itself."""
        if not self.is_cuda:
            return call
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            call()
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = call()

        def replay() -> Any:
            graph.replay()
            return answer

        return replay

    def measure(self, candidates: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Measured]:
        """Seconds in turns, warm, the candidates one after the other in each turn; memory and answer of a call before."""
        measured, calls = {}, {}
        for name, call in candidates.items():
            call()  # compiles, and asks for memory
            self.wait()
            if self.is_cuda:
                torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device) if self.is_cuda else 0
            answer = call()
            self.wait()
            memory = torch.cuda.max_memory_allocated(self.device) - before if self.is_cuda else None
            measured[name] = Measured([], memory, answer)
            calls[name] = max(1, min(_MOST_CALLS, round(_TURN / max(self.seconds(call), 1e-6))))
        slow = max(self.seconds(call) for call in candidates.values()) > _SLOW
        for _ in range(2 if slow or self.quick else repeats):
            for name, call in candidates.items():
                measured[name].seconds.append(self.seconds(call, calls[name]))
        return measured

    def launches(self, call: Callable[[], Any]) -> int | None:
        """How many kernels a call launches; None where that cannot be seen."""
        if not self.is_cuda:
            return None
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        call()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            call()
            self.wait()
        kernels = [each for each in found.events() if each.device_type == DeviceType.CUDA and not each.name.startswith("Mem")]
        return len(kernels) or None

    @functools.cached_property
    def bandwidth(self) -> float:
        """Bytes a second, read and written, of a copy of a large tensor."""
        source = torch.empty(self.size(1 << 30, 1 << 20), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        target.copy_(source)
        return 2 * source.numel() / min(self.seconds(lambda: target.copy_(source), 3) for _ in range(7))

    @functools.cache  # noqa: B019  (one lives as long as the process)
    def rate(self, dtype: torch.dtype) -> float:
        """Operations a second of the product of large matrices."""
        n = self.size(8192, 256)
        one, two = (torch.randn(n, n, device=self.device).to(dtype) for _ in range(2))
        torch.matmul(one, two)
        return 2 * n**3 / min(self.seconds(lambda: torch.matmul(one, two), 3) for _ in range(5))

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """Of what was measured, and how fast the device is at the two things that nothing can be quicker than."""
        found = versions("triton")
        if self.is_cuda:
            found["CUDA"] = str(torch.version.cuda)
        found["copies at"] = f"{self.bandwidth / 1e12:.2f} TB/s"
        for dtype in (torch.float32, torch.float16):
            found[f"{str(dtype).removeprefix('torch.')} products at"] = f"{self.rate(dtype) / 1e12:.0f} TFLOP/s"
        return found

    def compared(
        self,
        case: str,
        what: str,
        peer: Peer,
        ours: Callable[[], Any],
        *,
        error_is: str,
        errors: Callable[[Any, Any], tuple[float | None, float]],
        floor_bytes: float = 0.0,
        floor_flops: float = 0.0,
        floor_dtype: torch.dtype = torch.float32,
        repeats: int = 9,
        target: float | None = None,
        launches: bool = False,
    ) -> Iterator[Row]:
        """The row of a peer and of ours; none where the peer cannot do the job (it is named then)."""
        theirs = peer.ready(what)
        if theirs is None:
            return
        measured = self.measure({"theirs": theirs, "ours": ours}, repeats)
        them, us = measured["theirs"], measured["ours"]
        peer_error, error = errors(them.answer, us.answer)
        if launches:
            what = f"{what}; kernels launched: {self.launches(theirs) or '–'} / {self.launches(ours) or '–'}"
        flops = floor_flops / self.rate(floor_dtype) if floor_flops else 0.0
        yield Row(
            case=case,
            what=what,
            peer=peer.name,
            peer_seconds=statistics.median(them.seconds),
            seconds=statistics.median(us.seconds),
            ratio=ratio(them.seconds, us.seconds),
            error_is=error_is,
            peer_error=peer_error,
            error=error,
            peer_memory=them.memory,
            memory=us.memory,
            floor_seconds=max(floor_bytes / self.bandwidth, flops),
            target=target,
            versions=self.versions,
        )
