"""deploy/README.md: five commands at most for each way, of files that are there."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess

import kubernetes_validate
import pytest
import yaml

from dask_gmm.cli.main import main

from . import manifests
from .test_kubernetes import KUBERNETES

TEXT = (manifests.DEPLOY / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def commands(section: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", SECTIONS[section], re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_every_way_is_there() -> None:
    words = " ".join(SECTIONS)
    for way in ("TLS", "Compose", "operator", "Helm", "SLURM", "systemd", "gateway", "Coiled"):
        assert way in words
        assert way in TEXT.partition("## ")[0], "in the table of what is tested too"


@pytest.mark.parametrize("section", SECTIONS)
def test_five_commands_at_most(section: str) -> None:
    assert len(commands(section)) <= 5


def test_the_files_are_there() -> None:
    said = set(re.findall(r"\bdeploy/[\w./@*-]+[\w*]", TEXT))
    said |= {f"deploy/{link}" for link in re.findall(r"\]\((?!#|http)([^)]+)\)", TEXT)}
    assert len(said) > 10
    for name in said - {"deploy/credentials.env"}:
        assert list(manifests.ROOT.glob(name)), f"no {name}"


def test_links_lead_to_headings() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in SECTIONS}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


def test_what_is_submitted_is_a_fit() -> None:
    lines = [line for line in commands("SLURM") if line.startswith("sbatch")]
    lines += re.findall(
        r"^# +(sbatch .*)$", (manifests.DEPLOY / "slurm/fit.sbatch").read_text(), re.M
    )
    assert len(lines) == 2
    for line in lines:
        _, script, *words = shlex.split(line)
        assert (manifests.ROOT / script).is_file()
        assert "--checkpoint" in words
        manifests.parse_click(main, ("dask-gmm", "fit", *words))


def test_the_charts_fit_is_the_operators_but_for_two_names() -> None:
    """The line's own sed is run."""
    (line,) = [line for line in commands("Kubernetes, with the dask Helm chart") if "sed" in line]
    sed, _, rest = line.partition("|")
    assert rest.split() == ["kubectl", "create", "-f", "-"]
    done = subprocess.run(
        shlex.split(sed), cwd=manifests.ROOT, check=True, capture_output=True, text=True, timeout=30
    )
    job = yaml.safe_load(done.stdout)
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    (container,) = pod["containers"]
    assert "--scheduler=tcp://gmm-dask-scheduler:8786" in container["args"]
    kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_python_is_python() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)
