"""Several nodes: a node lost in the middle of embed, lm-ft, r-ft and a sweep; DeepSpeed ZeRO on two
nodes; the corpus side on object storage over the S3 protocol.

In: nothing; the tiny chain is made in `--output`. Out: benchmarks/results/multinode.json and the
part of docs/results/multinode.md below its marker. Nodes are `ray start`s of this machine with one
CPU each, told apart by their addresses (benchmarks/nodes.py); storage is shared by path, or is a
local S3 server (extra `s3`; left out without it).

    python -m benchmarks.multinode
    python -m benchmarks.multinode --nodes 3 --stages embed,lm-ft --zero "" --no-s3
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.kill import (
    LATEST,
    TRAININGS,
    Log,
    command,
    complete,
    difference,
    ends_well,
    finished,
    num_units,
    prepare,
    progress,
    publish,
    wait_until,
)
from benchmarks.nodes import Nodes, cluster, stage_workers
from benchmarks.publish import ROOT
from radit_ray.report.table import text_table
from tests.s3 import have_s3, s3_server

FILE = ROOT / "benchmarks" / "results" / "multinode.json"
PAGE = ROOT / "docs" / "results" / "multinode.md"
LOST_IN = ("embed", "lm-ft", "r-ft", "sweep")
ON_S3 = ("chunk", "embed", "index", "retrieve", "score")
SAME = 1e-4  # ZeRO and DDP: fp32 sums in another order, as in tests/stages/test_lm_ft.py
BUCKET = "radit"


def reference(stage: str, folder: str, nodes: Nodes) -> str:
    """The uninterrupted result to compare with: of what trains with two workers as well, whose sums
    have one order; of anything else the workers do not matter.
    """
    if stage not in (*TRAININGS, "sweep"):
        return f"{folder}/whole/{stage}"
    made = f"{folder}/two/{stage}"
    if not finished(stage, made):
        complete(command(stage, folder, f"{folder}/two", workers=2), nodes.driver)
    return made


def row_of(name: str, off: float, tolerance: float, **more: Any) -> dict[str, Any]:
    """A row of the log; what is compared is how far the result is off."""
    compared = {"ours": off, "peer": None, "ratio": off, "floor": tolerance, "better": "lower"}
    unit = "largest difference of weights, or share of files that differ"
    return {"name": name, **more, "equal": off == 0.0, **compared, "unit": unit}


def lose_node(
    stage: str, folder: str, nodes: Nodes, chance: random.Random, replaced: bool
) -> dict[str, Any]:
    """Two workers, and the node of one of them is lost. `replaced`: another one comes instead, as
    an autoscaler would start it; else the nodes that are left must do.
    """
    expected = reference(stage, folder, nodes)
    units, unit_s = num_units(stage, expected)
    after = chance.randrange(1, max(2, int(LATEST * units)))
    place = f"{folder}/lost/{stage}-{len(nodes.workers) + 1}-{chance.randrange(10**6):06d}"
    shutil.rmtree(place, ignore_errors=True)  # of an earlier call
    words = command(stage, folder, place, workers=2)
    started = time.monotonic()
    driver = subprocess.Popen(
        words, cwd=ROOT, env=nodes.driver, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(driver, lambda: progress(stage, f"{place}/{stage}").units >= after)
    time.sleep(chance.random() * unit_s)
    at = progress(stage, f"{place}/{stage}")
    running = nodes.processes()
    busy = [number for number in nodes.workers if stage_workers(running[str(number)])]
    count = len(nodes.workers) + 1
    nodes.lose(chance.choice(busy or sorted(nodes.workers)))
    if replaced:
        nodes.add()
    went_on = ends_well(driver)
    complete(words, nodes.driver)
    off = difference(stage, expected, f"{place}/{stage}")
    row = row_of(
        f"{stage}: one of {count} nodes lost after {at.units} of {units}",
        off,
        0.0,
        stage=stage,
        nodes=count,
        committed=at.checkpoint if stage in TRAININGS else at.units,
        node_worked=bool(busy),
        replaced=replaced,
        went_on=went_on,
        seconds=time.monotonic() - started,
    )
    if not replaced:
        nodes.add()
    nodes.wait(count)
    return row


def zero(stage: int, folder: str, nodes: Nodes) -> dict[str, Any]:
    """lm-ft with DeepSpeed on two nodes against DDP, and its export in plain transformers."""
    expected = reference("lm-ft", folder, nodes)
    place = f"{folder}/zero-{stage}-{os.getpid()}"
    words = command("lm-ft", folder, place, workers=2, zero=stage)
    started = time.monotonic()
    driver = subprocess.Popen(
        words, cwd=ROOT, env=nodes.driver, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(driver, lambda: progress("lm-ft", f"{place}/lm-ft").step >= 1)
    places = [name for name, found in nodes.processes().items() if trainers(found)]
    if not ends_well(driver):
        complete(words, nodes.driver)  # says why
    off = difference("lm-ft", expected, f"{place}/lm-ft")
    return row_of(
        f"lm-ft: ZeRO-{stage}, 2 workers",
        off,
        SAME,
        stage="lm-ft",
        zero_stage=stage,
        nodes=len(places),
        logits_off=logits_off(expected, f"{place}/lm-ft"),
        seconds=time.monotonic() - started,
    )


def trainers(processes: Sequence[Any]) -> list[Any]:
    return [one for one in stage_workers(list(processes)) if "RayTrainWorker" in str(one.cmdline())]


@torch.no_grad()
def logits_off(one: str, other: str) -> float:
    """Largest difference of the logits that plain transformers gives with two exported LMs."""
    ids = torch.arange(3, 40)[None]
    found = [AutoModelForCausalLM.from_pretrained(f"{path}/model") for path in (one, other)]
    return float((found[0](ids).logits - found[1](ids).logits).abs().max())


def on_s3(folder: str, stages: Sequence[str], variables: Mapping[str, str]) -> list[dict[str, Any]]:
    """The corpus side on a bucket, each stage with its driver killed once, against the same on a
    path.
    """
    os.environ.update(variables)
    import s3fs

    s3fs.S3FileSystem().mkdir(BUCKET)
    place, rows = f"s3://{BUCKET}/chain", []
    with cluster(1, head_cpus=1, variables=variables) as nodes:
        for stage in stages:
            words = command(stage, folder, place, workers=2, source=place)
            started, output = time.monotonic(), f"{place}/{stage}"
            driver = subprocess.Popen(
                words,
                cwd=ROOT,
                env=nodes.driver,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(driver, lambda output=output: committed_on_s3(output) >= 2)
            driver.kill()
            driver.wait()
            at = committed_on_s3(output)
            complete(words, nodes.driver)
            off = difference(stage, f"{folder}/whole/{stage}", output)
            rows.append(
                row_of(
                    f"{stage}: on S3, its driver killed after {at}",
                    off,
                    0.0,
                    stage=stage,
                    nodes=2,
                    committed=at,
                    seconds=time.monotonic() - started,
                )
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def committed_on_s3(output: str) -> int:
    """Shards with a sidecar, asked anew."""
    import s3fs

    store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    time.sleep(0.05)
    return len(store.find(f"{output}/committed"))


def page(found: dict[str, Any]) -> str:
    """The log as Markdown."""
    rows = found["rows"]
    within = sum(row["ratio"] <= row["floor"] for row in rows)
    parts = [
        f"`{found['command']}`, commit {found['commit']}, {found['hardware']}.",
        f"{within} of {len(rows)} results are those of the uninterrupted run on a path (ZeRO: of "
        f"DDP within {SAME:g}).",
        text_table(
            ["what", "nodes", "went on by itself", "off by", "allowed", "s"],
            [
                [
                    row["name"],
                    str(row["nodes"]),
                    {True: "yes", False: "no, the rerun completed", None: "-"}[row.get("went_on")],
                    f"{row['ours']:g}",
                    f"{row['floor']:g}",
                    f"{row['seconds']:.0f}",
                ]
                for row in rows
            ],
            markdown=True,
        ),
    ]
    if "s3" in found:
        parts.append(found["s3"])
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="lose nodes, shard a training, store on S3")
    parser.add_argument("--nodes", default="2,3", help="cluster sizes in which a node is lost")
    parser.add_argument("--stages", default=",".join(LOST_IN))
    parser.add_argument("--zero", default="2,3", help="DeepSpeed ZeRO stages")
    parser.add_argument("--s3", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="runs/multinode", help="the chain, kept between calls")
    args = parser.parse_args()
    stages = [name for name in args.stages.split(",") if name]
    folder = str(Path(args.output).resolve())
    log = Log("multinode", folder)
    for count in (int(part) for part in args.nodes.split(",") if part):
        with cluster(count - 1, head_cpus=1) as nodes:
            prepare(folder, [*stages, "score"], nodes)
            for number, stage in enumerate(stages):
                chance = random.Random(f"{args.seed} {count} {number}")
                # two nodes: one alone cannot hold two workers; three: the other two can
                replaced = count == 2
                log.add(functools.partial(lose_node, stage, folder, nodes, chance, replaced))
    if args.zero:
        with cluster(1, head_cpus=1) as nodes:
            prepare(folder, ["lm-ft"], nodes)
            for stage in (int(part) for part in args.zero.split(",")):
                log.add(functools.partial(zero, stage, folder, nodes))
    rows = log.rows
    found: dict[str, Any] = {"seed": args.seed, "rows": rows}
    if args.s3 and have_s3():
        with cluster(head_cpus=1) as nodes:
            prepare(folder, ["score"], nodes)
        with s3_server() as variables:
            rows += on_s3(folder, ON_S3, variables)
    elif args.s3:
        found["s3"] = "S3 was left out: the extra `s3` is not installed."
    print(publish(found, FILE, PAGE, page))
    log.close()


if __name__ == "__main__":
    main()
