"""results/training-step.json -> the table of the training loop beside the network's own work."""

import json
from pathlib import Path
from typing import Any


def table(folder: Path) -> str:
    """A row for each size of the crops, the conditions below; a remark where nothing was measured yet."""
    path = folder / "training-step.json"
    if not path.is_file():
        return "Not measured yet: `python benchmarks/training_step.py --out benchmarks/results/training-step.json`.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            f"{one['crops_px']} px",
            f"{one['loop_step_s']['median']:.3f}",
            f"{one['of_it_waiting_s']['median'] * 1e3:.0f}",
            f"{one['forward_backward_s']['median']:.3f}",
            _ratio(one["over_forward_backward"]),
            _ratio(one["over_forward_backward_adamw"]),
        )
        for one in found["sizes"]
    ]
    head = (
        "crops",
        "step of the loop, s",
        "of it waiting, ms",
        "forward + backward, s",
        "loop over it",
        "loop over it with AdamW",
    )
    shown = [f"| {' | '.join(row)} |" for row in (head, ("---", *["---:"] * (len(head) - 1)), *rows)]
    on = found["environment"]
    state = "valid" if found["valid"] else f"not valid: {'; '.join(found['reasons'])}"
    return (
        "\n".join(shown)
        + f"\n\n{found['backbone']}, {found['batch_pairs']} pairs in a batch, threads: {found['threads']}, workers: "
        + f"{found['workers']}, {on['cpu_model']}; limit {found['limit']:g}; {state}. `{found['command']}`\n"
    )


def _ratio(value: dict[str, Any]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
