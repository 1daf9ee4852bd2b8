"""Kits and engines for TensorRT on the page: what was emulated, what a sibling compiled, what a device built."""

import json
import re
from pathlib import Path

import pytest

from edgeskin.report import html, inputs, search_charts
from edgeskin.report.engine import SIBLING
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.manifest import Gated
from edgeskin.spec.result import Estimate, VerifyResult


def pages(given: inputs.ReportInput, folder: Path) -> tuple[str, str]:
    page = html.render(given, folder / "report.html")
    return page.read_text(), page.with_suffix(".md").read_text()


def proof_of(given: inputs.ReportInput) -> Evidence:
    proof = given.bundles[0].evidence
    assert proof is not None
    return proof


def changed(given: inputs.ReportInput, *, proof: Evidence | None = None, **manifest: object) -> inputs.ReportInput:
    first = given.bundles[0]
    update: dict[str, object] = {"manifest": first.manifest.model_copy(update=manifest)}
    if proof is not None:
        update["evidence"] = proof
    return given.model_copy(update={"bundles": (first.model_copy(update=update),)})


def headings(page: str) -> list[str]:
    return re.findall(r"<h3>([^<]+)</h3>", page)


def test_a_kit_is_called_a_kit_and_told_whole(given_kit: inputs.ReportInput, tmp_path: Path) -> None:
    page, markdown = pages(given_kit, tmp_path)
    for told in (page, markdown):
        for expected in (
            "Build kit for jetson-orin-nano, TensorRT 10.3.0, SM 8.7: no engine yet",
            "edgeskin build KIT --out BUNDLE",
            "6.1 to 6.2.2",
            "rules of TensorRT 10.3.0: nothing found in 386 nodes (clinical + dermoscopic) and 251 nodes",
            "planned as INT8, share of the MACs",
            "13.9 MB",  # weights of the FP32 graph
            "19.6 MB",  # its tensors that live together
            "Emulated: role test, 377 lesions",
            "Emulated: role control, 251 lesions",
            "-0.0100 [-0.0140, -0.0060]",  # a difference of the emulation
            "1.1% [0.4%, 2.7%]",  # flips on the test role with their interval
            "INT8 emulated",
            "tensorrt-rtx 1.7.1.116 on the CPU, for GPUs of SM 8.6",
            "Not measured: there is no engine yet",
            "tensorrt INT8, build kit",
            "0.910 (0.920), emulated",  # AUC in the summary
            "passed (emulated)",
            "Gate passed in the emulation",
        ):
            assert expected in told, expected
        assert told.count(SIBLING) == 3  # at the top, in the list, below the table
    assert headings(page) == [
        "Build kit", "Gate, in the emulation", "Flipped lesions, emulated", "Emulation", "Sibling builder", "Search",
        "Provenance",
    ]  # fmt: skip
    assert "difference, INT8 emulated minus FP32" in page
    assert "INT8 minus FP32" not in page.replace("INT8 emulated minus", "")  # what was emulated is never plain INT8


def test_what_the_sibling_ran_otherwise_is_named_and_marked(given_kit: inputs.ReportInput, tmp_path: Path) -> None:
    page, markdown = pages(given_kit, tmp_path)
    assert re.search(r'<li class="bad">MACs in INT8 as tensorrt-rtx 1.7.1.116 compiles it for SM 8.6: 9', page)
    part = markdown.partition("### Sibling builder")[2].partition("\n### ")[0]
    assert re.search(r"\| layers that fell back \| 1 \| 0 \|", part)
    assert re.search(r"\| reformats among them \| 3 \| 0 \|", part)
    assert re.search(r"\| node_Conv_907, .*\| INT8 \| FP16, fell back \|", part)
    kit = proof_of(given_kit).kit
    assert kit is not None
    assert kit.sibling is not None
    good = kit.sibling.modes["dermoscopic"]
    fine = kit.sibling.model_copy(update={"modes": {"pair": good, "dermoscopic": good}})
    proof = proof_of(given_kit).model_copy(update={"kit": kit.model_copy(update={"sibling": fine})})
    page, _ = pages(changed(given_kit, proof=proof), tmp_path)
    assert '<li class="good">MACs in INT8 as tensorrt-rtx' in page


def test_a_sibling_that_was_not_asked_has_its_reason(given_kit: inputs.ReportInput, tmp_path: Path) -> None:
    kit = proof_of(given_kit).kit
    assert kit is not None
    alone = kit.model_copy(update={"sibling": None, "sibling_why_not": "the package 'tensorrt-rtx' is not installed"})
    proof = proof_of(given_kit).model_copy(update={"kit": alone})
    page, markdown = pages(changed(given_kit, proof=proof), tmp_path)
    assert "not asked: the package 'tensorrt-rtx' is not installed" in markdown
    assert SIBLING not in page + markdown
    assert "Sibling builder" not in headings(page)


def test_a_kit_without_evidence_still_says_what_it_is(given_kit: inputs.ReportInput, tmp_path: Path) -> None:
    bare = given_kit.bundles[0].model_copy(update={"evidence": None})
    page, _ = pages(given_kit.model_copy(update={"bundles": (bare,)}), tmp_path)
    assert "Build kit for jetson-orin-nano" in page
    assert "Its evidence is not there." in page
    assert "passed (emulated)" in page


def test_a_kit_that_was_verified_reads_as_an_emulation(
    given_kit: inputs.ReportInput, verified: VerifyResult, tmp_path: Path
) -> None:
    engine = {"backend": "emulation of tensorrt", "version": "onnxruntime 1.32.0"}
    here = verified.model_copy(update={"bundle_sha256": "5" * 64, "engine": engine, "target": "tensorrt"})
    bundle = given_kit.bundles[0].model_copy(update={"verify": here})
    page, markdown = pages(given_kit.model_copy(update={"bundles": (bundle,)}), tmp_path)
    assert "Golden cases: 1 of 1 pass in the emulation on this machine" in markdown
    assert "Accuracy, emulated" in headings(page)
    assert "An emulation, not an engine" in page.partition("<h3>Accuracy, emulated")[2].partition("<h3>")[0]
    assert ">INT8</text>" not in page.partition("<h3>Accuracy, emulated")[2].partition("<h3>")[0]  # legends too
    assert "pass on this machine" not in page + markdown
    golden = here.model_copy(update={"accuracy": {}, "parity": {}})  # verified where no lesion is
    page, _ = pages(given_kit.model_copy(update={"bundles": (bundle.model_copy(update={"verify": golden}),)}), tmp_path)
    assert "Accuracy, emulated" not in headings(page)
    assert "0.910 (0.920), emulated" in page  # the kit's own record stands in


def test_planned_costs_are_labelled_estimates(given_kit: inputs.ReportInput, tmp_path: Path) -> None:
    page, markdown = pages(given_kit, tmp_path)
    search = markdown.partition("### Search")[2].partition("\n### ")[0]
    assert "| planned cost, an estimate |" in search
    assert f"| {4.41 / 8:.3f} | chosen |" in search
    assert "not a time" in search
    assert "p50" not in search
    assert "planned cost of the pair, an estimate" in page
    found = proof_of(given_kit).search
    assert found is not None
    drawn = search_charts.search_chart("s", found.candidates, found.chosen)
    assert drawn is not None
    assert drawn.count("<g><title>") == 7  # the one that has no cost is not drawn
    assert " ms" not in drawn
    timed = [one.model_copy(update={"p50_ms": 3.0 + n}) for n, one in enumerate(found.candidates)]
    assert not search_charts.planned(timed)  # a time counts more than a guess
    assert "median latency of the pair, ms" in (search_charts.search_chart("s", timed, found.chosen) or "")


def test_an_engine_tells_how_it_was_built(given_engine: inputs.ReportInput, tmp_path: Path) -> None:
    page, markdown = pages(given_engine, tmp_path)
    for told in (page, markdown):
        for expected in (
            "Engine, built on and bound to Orin, TensorRT 10.3.0, SM 8.7",
            "TensorRT's Python package" if told is markdown else "TensorRT&#39;s Python package",
            "new: every kernel was timed for this build",
            "c0ffee",
            "for CUDA up to 12.6",
            "DLA left 2 layers to the GPU",
            "node_Gemm_99",
            "INT8 engine against the INT8 emulation: role test, 377 lesions",
            "1.07 GB",  # workspace
            "2.85 GB",  # needed
            "INT8 engine",
            "FP16 engine",
            "0.660 [0.655, 0.666] of the latency of the fastest higher precision, 1.52x as fast",
            "The kit, before it was built",
            "Kit, emulated: role test, 377 lesions",
            SIBLING,
        ):
            assert expected in told, expected
    assert "passed (emulated)" not in page  # the engine itself was asked
    assert "| reformats | 7 | 7 |" in markdown
    assert "Logits against the emulation&#39;s:" in page
    rows = re.findall(r"\| INT8 (\d) \| (.*) \|", markdown)
    assert [number for number, _ in rows] == ["1", "2", "3"] * 2
    assert rows[1][1] == "1 min 26 s | 4.40 MB | 200000000000 | 0.0137 | 0 of 24 | 1.24 | chosen"
    assert sum(row.endswith("chosen") for _, row in rows) == 2
    assert headings(page) == [
        "Engine", "Gate", "Flipped lesions", "Builds of the engine", "Nearness to the emulation",
        "Memory for the build", "Precision of the graph", "Search", "INT8 against higher precision",
        "The kit, before it was built", "Provenance",
    ]  # fmt: skip
    assert "The DLA has no softmax." in page
    assert ", 1 thread" not in page  # of a GPU it says nothing


def test_an_engine_that_was_not_asked_has_an_emulated_gate(given_engine: inputs.ReportInput, tmp_path: Path) -> None:
    engine = proof_of(given_engine).engine
    assert engine is not None
    proof = proof_of(given_engine).model_copy(update={"engine": engine.model_copy(update={"nearness": ()})})
    page, markdown = pages(changed(given_engine, proof=proof), tmp_path)
    assert "| gate | passed (emulated) |" in markdown
    assert "Gate, in the emulation" in headings(page)
    assert "Nearness to the emulation" not in headings(page)


def test_fp16_that_is_shipped_keeps_the_int8_builds_apart(given_engine: inputs.ReportInput, tmp_path: Path) -> None:
    proof = proof_of(given_engine)
    assert proof.speed is not None
    slower = proof.speed.model_copy(update={"int8_is_faster": False, "why": "int8 takes 1.10 times as long as fp16"})
    given = changed(
        given_engine,
        proof=proof.model_copy(update={"speed": slower, "audit": None}),
        precision="fp16",
        gated=Gated(status="not needed", why="INT8 is not shipped"),
    )
    page, markdown = pages(given, tmp_path)
    assert "not needed (FP16)" in page
    assert "INT8 not shipped: int8 takes 1.10 times as long as fp16" in page
    assert "These are INT8 engines, which were not shipped: the bundle runs in FP16." in page
    assert "nearest, not shipped" in page
    assert "| chosen |" not in markdown.partition("### Builds of the engine")[2].partition("\n### ")[0]
    assert "FP16 engine against the INT8 emulation: role test" in page
    assert "| FP32 | FP16 engine |" in markdown.partition("### Gate")[2]
    assert "This is of the INT8 build" not in page  # the gate asked the FP16 engine
    assert "Kit, emulated" in page
    assert "FP16 emulated" not in page


def test_two_medians_of_trtexec_have_no_interval(given_engine: inputs.ReportInput, tmp_path: Path) -> None:
    proof = proof_of(given_engine)
    assert proof.speed is not None
    assert proof.engine is not None
    plain = proof.speed.model_copy(update={"ratio": Estimate(value=0.66, reason="two medians by trtexec, no interval")})
    built = proof.engine.model_copy(update={"maker": "trtexec", "timing_cache": "used"})
    page, _ = pages(changed(given_engine, proof=proof.model_copy(update={"speed": plain, "engine": built})), tmp_path)
    assert "Of their ratio: two medians by trtexec, no interval." in page
    assert "paired bootstrap." not in page.partition("<h3>INT8 against higher precision")[2].partition("<h3>")[0]
    assert "trtexec, TensorRT&#39;s own program" in page
    assert "used: kernels timed in an earlier build" in page


@pytest.mark.parametrize("which", ["given_kit", "given_engine"])
def test_both_are_escaped_and_kept(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    given = request.getfixturevalue(which)
    evil = '"><script>alert(1)</script>|x'
    proof = proof_of(given)
    assert proof.kit is not None
    assert proof.kit.sibling is not None
    kit = proof.kit.model_copy(update={"sibling": proof.kit.sibling.model_copy(update={"builder": evil})})
    engine = proof.engine and proof.engine.model_copy(update={"dla_fallback": (evil,), "notes": (evil,)})
    bound = given.bundles[0].manifest.compatibility.model_copy(update={"gpu": evil, "jetpack": evil})
    spoilt = changed(given, proof=proof.model_copy(update={"kit": kit, "engine": engine}), compatibility=bound)
    page, _ = pages(spoilt, tmp_path)
    assert "<script>alert" not in page
    assert page.count("<script") == 1
    again = inputs.ReportInput.parse(json.loads((tmp_path / "report.json").read_text()), "report.json")
    assert again.bundles[0].evidence == spoilt.bundles[0].evidence
    keys = re.findall(r'<table data-key="([^"]+)"', page)
    assert len(keys) == len(set(keys))
