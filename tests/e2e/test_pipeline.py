"""The complete pipeline on a cut-down sample, every stage real: KFP, DVC, the served model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.planted import PLANTED, contents, hits
from vhm.serve.client import ask, local_server
from vhm.train.launch import weights_hash

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def pipeline(recipe: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "vhm.cli",
        "pipeline",
        "run",
        "--recipe",
        str(recipe),
        "--out",
        str(out),
        *arguments,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=out.parent, timeout=900, env=os.environ | PLANTED
    )


@pytest.fixture(scope="module")
def run(cut_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pipeline") / "run"
    done = pipeline(cut_recipe, out)
    assert done.returncode == 0, done.stderr[-3000:]
    (out / "printed.txt").write_text(done.stdout)
    (out / "shown.txt").write_text(done.stderr)
    return out


def test_a_run_writes_no_secret_of_the_environment(run: Path) -> None:
    files = contents(run)
    assert len(files) > 100
    assert hits(files) == []


def test_a_run_writes_the_files_that_the_contract_lists(run: Path) -> None:
    assert {"model", "scores.json", "report.html", "recipe.yaml", "lineage.json"} <= {p.name for p in run.iterdir()}
    lineage = json.loads((run / "lineage.json").read_text())
    promoted = lineage["inputs"]["model"]["lineage"]
    tuned = promoted["inputs"]["model"]["lineage"]
    assert (promoted["kind"], tuned["kind"]) == ("model/promoted", "model/sft")
    assert "## Evaluation" in (run / "model" / "README.md").read_text()
    assert tuned["inputs"]["model"]["lineage"]["kind"] == "model/pretrain"
    assert len(json.loads((run / "deployment" / "deployment.json").read_text())["golden"]) >= 2
    assert (run / "deployment" / "answer.png").stat().st_size > 1000


def test_a_run_prints_stages_steps_and_a_table(run: Path) -> None:
    shown, printed = (run / "shown.txt").read_text(), (run / "printed.txt").read_text()
    assert "pretrain step" in shown
    assert " s left" in shown
    kinds = ("pretrain", "sft", "eval")
    names = [f"{stage} data · {kind}" for kind in kinds for stage in ("check", "validate")]
    names += ["warm start", "pretrain", "sft", "evaluate · 1/2", "evaluate · 2/2", "score", "gate", "deploy"]
    table = printed.split("\n\n")[0].splitlines()
    assert sorted(re.split(r" {2,}", line)[0] for line in table[1:-2]) == sorted(names)
    parallel = {re.split(r" {2,}", line)[0] for line in table[1:-2] if line.endswith("done ‖")}
    assert {"evaluate · 1/2", "evaluate · 2/2"} <= parallel
    assert parallel.isdisjoint(["warm start", "pretrain", "sft", "score", "gate", "deploy"])
    assert str(run / "report.html") in printed


def test_a_second_run_takes_every_stage_from_the_cache(run: Path, cut_recipe: Path) -> None:
    before = weights_hash(run / "model")
    done = pipeline(cut_recipe, run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "(14 of 14 stages cached)" in done.stdout
    assert "pretrain: cached\n" in done.stderr
    assert weights_hash(run / "model") == before
    assert (run / "deployment" / "answer.png").exists()


def test_the_promoted_model_loads_and_answers_over_http(run: Path, cut: Path, cut_recipe: Path) -> None:
    image = next((cut / "eval" / "images").rglob("*.jpg")).read_bytes()
    with local_server(run / "model", cut_recipe) as url:
        assert isinstance(ask(url, image, "Is this a rural or an urban area?"), str)
    program = (
        "import sys; sys.modules['vhm'] = None;"
        "from transformers import AutoModelForImageTextToText as M, AutoProcessor as P;"
        "print(type(M.from_pretrained(sys.argv[1])).__name__, type(P.from_pretrained(sys.argv[1])).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run / "model")], capture_output=True, text=True, cwd="/")
    assert done.stdout.split() == ["LlavaForConditionalGeneration", "LlavaProcessor"], done.stderr[-1000:]


def test_too_many_bad_records_stop_the_run_with_one_line(cut: Path, cut_recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(cut, tmp_path / "data")
    path = tmp_path / "data" / "sft" / "list_sft.json"
    records = json.loads(path.read_text())
    for record in records[:5]:
        record["image"] = "absent.jpg"
    path.write_text(json.dumps(records))
    done = pipeline(cut_recipe, tmp_path / "out", "--set", f"data.root={tmp_path / 'data'}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vhm: error: validate data · sft: ")
    assert "5 of" in last
    assert "image_missing" in last
    assert not (tmp_path / "out" / "model").exists()


def test_a_gate_that_refuses_deploys_nothing(run: Path, cut_recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "out", symlinks=True)
    shutil.rmtree(tmp_path / "out" / "model")
    done = pipeline(cut_recipe, tmp_path / "out", "--json", "--set", "gate.thresholds={grounding.precision: 1.0}")
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"] is False
    assert "gate: not promoted: grounding.precision" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out" / "model").exists()


def test_the_checked_in_pipeline_equals_the_compiled_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vhm.cli", "pipeline", "compile", "--out", str(tmp_path / "vhm.yaml")]
    subprocess.run(command, check=True, capture_output=True)
    compiled, kept = ((yaml.safe_load_all((p / "vhm.yaml").read_text())) for p in (tmp_path, ROOT / "pipelines"))
    assert list(compiled) == list(kept), "run `make pipeline`"


def test_dvc_repro_gives_the_same_weights_and_is_then_up_to_date(
    run: Path, cut: Path, cut_recipe: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, project / name)
    shutil.copytree(ROOT / "vhm", project / "vhm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(cut, project / "data")
    (project / "params.yaml").write_text(f"recipe: {cut_recipe}\ndata: data\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def dvc(*arguments: str) -> str:
        done = subprocess.run(["dvc", *arguments], cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    dvc("init", "--no-scm")
    dvc("repro")
    assert weights_hash(project / "runs" / "dvc" / "sft") == weights_hash(run / "model")
    assert "Data and pipelines are up to date" in dvc("repro")
    assert "presence" in dvc("metrics", "show", "--json")
    dvc("plots", "show", "--out", "plots")
    assert (project / "plots" / "index.html").is_file()
