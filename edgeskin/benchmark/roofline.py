"""How fast a board's published figures let a network be: an estimate, never a measurement.

The roofline model (S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", 2009) with a cost for each layer's start, which small networks feel most. Caches are left out:
what stays in a large one makes a machine faster than the memory part says.
"""

from pathlib import Path

from edgeskin import layers
from edgeskin.benchmark.sensors import ROOT, cpu_mhz, read_int, read_text
from edgeskin.bundle import Bundle
from edgeskin.doctor import Machine, match_device, read_machine
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.device import Beside, Device, LatencyEstimate, LayerCounts, Unit
from edgeskin.spec.manifest import Mode

# Microseconds from one layer to the next, whatever it does: our assumption. A kernel in a stream of a GPU; on a CPU the
# threads of a pool meet and part.
LAUNCH_US: dict[Unit, float] = {"gpu": 5.0, "cpu": 3.0}
_UNITS: dict[str, Unit] = {"tensorrt": "gpu", "openvino": "cpu", "onnxruntime": "cpu"}
THIS = "this-computer"
# Products one core sums in a cycle, with two pipelines of the set's width; the best set that a processor has counts.
# AMD's Zen 4 runs AVX-512 in halves, so its cores get half of that.
_INT8_MACS = {
    "x86_64": {"amx_int8": 1024.0, "avx512_vnni": 128.0, "avx_vnni": 64.0, "avx2": 21.0},
    "aarch64": {"i8mm": 64.0, "asimddp": 32.0, "asimd": 8.0},
}
_FP32_MACS = {"x86_64": {"avx512f": 32.0, "fma": 16.0}, "aarch64": {"asimd": 8.0}}


def times_ms(
    counts: LayerCounts, *, int8_per_s: float, fp32_per_s: float, bytes_per_s: float, launch_us: float
) -> tuple[float, float, float]:
    """Milliseconds for the products, for the bytes, and for starting the layers.

    >>> lite0 = LayerCounts(mode="pair", layers=60, int8_macs=768_000_000, fp32_macs=0,
    ...                     weight_bytes=3_400_000, activation_bytes=13_600_000)
    >>> times_ms(lite0, int8_per_s=307.2e9, fp32_per_s=76.8e9, bytes_per_s=17e9, launch_us=3)
    (2.5, 1.0, 0.18)
    """
    compute = counts.int8_macs / int8_per_s + counts.fp32_macs / fp32_per_s
    memory = (counts.weight_bytes + counts.activation_bytes) / bytes_per_s
    return 1000 * compute, 1000 * memory, counts.layers * launch_us / 1000


def from_counts(counts: LayerCounts, device: Device, unit: Unit) -> LatencyEstimate:
    """The estimate of one unit: max(compute, memory) + layers x launch; without the bandwidth, compute + launch.

    TensorRT's GPU is taken without its deep-learning accelerators and without sparsity; a CPU with all its cores.
    """
    int8, fp32, used = _rates(device, unit)
    floating = counts.fp32_macs > 0
    lacking = [name for name in used if getattr(device, name) is None and (floating or not name.startswith("fp"))]
    targets = tuple(target for target in device.targets if _UNITS.get(target) == unit)
    known = (int8 is not None or counts.int8_macs == 0) and (fp32 is not None or not floating)
    bandwidth = device.bandwidth_gb_s
    compute, memory, launch = times_ms(
        counts,
        int8_per_s=int8 or 1.0,
        fp32_per_s=fp32 or 1.0,
        bytes_per_s=1e9 * (bandwidth or 1.0),
        launch_us=LAUNCH_US[unit],
    )
    parts = {"compute": compute, "memory": memory if bandwidth else 0.0, "launch": launch}
    if not bandwidth:
        lacking.append("bandwidth_gb_s")
    total = max(parts["compute"], parts["memory"]) + launch if known else None
    return LatencyEstimate.model_validate(
        {
            "device": device.name,
            "unit": unit,
            "targets": targets,
            "counts": counts,
            "compute_ms": compute if known else None,
            "memory_ms": memory if bandwidth else None,
            "launch_ms": launch,
            "total_ms": total,
            "bound": max(parts, key=lambda name: parts[name]) if known else None,
            "unverified": tuple(name for name in (*used, "bandwidth_gb_s") if name in device.unverified),
            "reason": f"the profile has no {', '.join(lacking)}" if lacking else "",
            "cores": device.cpu_cores if unit == "cpu" else None,
        }
    )


def estimate(bundle: Bundle, device: Device, mode: Mode = "pair", unit: Unit | None = None) -> LatencyEstimate:
    """What the device's figures let the network be, on the unit of the bundle's target where the device has it.

    Raises:
        EdgeskinError: the graph cannot be read here (see `layers.count`).
    """
    if unit is None:
        target = bundle.manifest.target
        unit = _UNITS.get(target if target in device.targets else device.targets[0], "cpu")
    return from_counts(layers.count(bundle, mode), device, unit)


def estimates(bundle: Bundle, device: Device, mode: Mode = "pair") -> tuple[LatencyEstimate, ...]:
    """One estimate for each unit that the device's targets run on, in their order."""
    units = dict.fromkeys(_UNITS[target] for target in device.targets if target in _UNITS)
    return tuple(estimate(bundle, device, mode, unit) for unit in units)


def beside(guess: LatencyEstimate, bench: BenchResult) -> Beside:
    """The measured median of the network alone beside its estimate, where both are of one board and one engine."""
    environment = bench.environment
    machine = Machine(
        arch=environment.arch,
        processor=environment.cpu_model or "",
        board=environment.board or "",
        flags=frozenset(environment.cpu_features),
        cores=environment.cores_usable,
    )
    lane = bench.lane(guess.counts.mode, "network")
    name, exact = match_device(machine)
    own = read_machine()
    here = guess.device == THIS and bool(own.processor or own.board)
    here = here and (own.processor, own.board, own.arch) == (machine.processor, machine.board, machine.arch)
    if not here and not (exact and name == guess.device):
        reason = f"measured on {machine.board or machine.processor or machine.arch}, not on {guess.device}"
    elif bench.target not in guess.targets:
        reason = f"measured with {bench.target}, which does not run on the {guess.unit} here"
    elif lane is None:
        reason = f"mode {guess.counts.mode} was not measured"
    else:
        p50 = lane.core.p50_ms
        reached = None if guess.total_ms is None else guess.total_ms / p50
        remark = guess.reason
        if guess.cores and environment.threads < guess.cores:
            remark = f"measured with {environment.threads} threads, estimated for {guess.cores} cores"
        return Beside(estimate=guess, measured_p50_ms=p50, reached=reached, reason=remark)
    return Beside(estimate=guess, measured_p50_ms=None, reached=None, reason=reason)


def this_computer(root: Path = ROOT, *, threads: int = 0) -> Device:
    """A profile of this machine's CPU, worked out from instruction sets, clock and cores; none of it is published."""
    machine = read_machine(root)
    cpu = root / "sys/devices/system/cpu"
    khz, _ = read_int(cpu / "cpu0/cpufreq/cpuinfo_max_freq")
    clocks, _ = cpu_mhz(root)
    ghz = khz / 1e6 if khz else max(clocks) / 1000 if clocks else None
    cores = {read_text(path)[0] for path in cpu.glob("cpu[0-9]*/topology/thread_siblings_list")} - {None}
    count = min([n for n in (len(cores), machine.cores, threads) if n])
    halved = {"avx512_vnni", "avx512f"} if machine.processor.startswith("AMD") else set()
    figures = [
        next(
            (macs / (2 if n in halved else 1) for n, macs in table.get(machine.arch, {}).items() if n in machine.flags),
            None,
        )
        for table in (_INT8_MACS, _FP32_MACS)
    ]
    return Device.model_validate(
        {
            "name": THIS,
            "title": machine.processor or machine.board or machine.arch,
            "arch": machine.arch,
            "targets": ("openvino", "onnxruntime"),
            "cpu_cores": count,
            "cpu_ghz": ghz,
            "int8_macs_per_cycle": figures[0],
            "fp32_macs_per_cycle": figures[1],
            "unverified": ("cpu_cores", "cpu_ghz", "int8_macs_per_cycle", "fp32_macs_per_cycle"),
        }
    )


def _rates(device: Device, unit: Unit) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Products a second in INT8 and in floating point, and the fields they come from; a product is two operations."""
    if unit == "gpu":
        tops, half, single = device.gpu_int8_dense_tops, device.fp16_dense_tops, device.fp32_tflops
        floating, name = (half, "fp16_dense_tops") if half else (single, "fp32_tflops")
        return tops and tops * 1e12 / 2, floating and floating * 1e12 / 2, ("gpu_int8_dense_tops", name)
    used = ("cpu_cores", "cpu_ghz", "int8_macs_per_cycle", "fp32_macs_per_cycle")
    cores, ghz, int8, fp32 = device.cpu_cores, device.cpu_ghz, device.int8_macs_per_cycle, device.fp32_macs_per_cycle
    cycles = cores * ghz * 1e9 if cores and ghz else None
    return cycles and int8 and cycles * int8, cycles and fp32 and cycles * fp32, used
