"""The Dockerfile, as far as it can be checked without Docker: its steps, paths and promises."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
INSTRUCTIONS = [line.split(maxsplit=1) for line in LINES if line.strip() and line[0] != "#"]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def script(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "deploy" / "install.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_everything_copied_exists_and_reaches_the_build() -> None:
    copies = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from")]
    sources = {source for *sources, _ in copies for source in sources}
    sent = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M))
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert sources == sent


def test_every_stage_that_is_named_is_built_before() -> None:
    stages: set[str] = set()
    for line in arguments("FROM"):
        base, _, name = line.split()
        assert (
            base.startswith("${")
            or {base.replace("${TARGET}", t) for t in ("cpu", "cuda")} <= stages
        )
        stages.add(name)
    assert all(
        rest.split()[0].split("=")[1] in stages for rest in arguments("COPY") if "--from" in rest
    )


def test_base_images_and_indexes_are_build_arguments() -> None:
    given = dict(rest.split("=", 1) for rest in arguments("ARG") if "=" in rest)
    assert {"TARGET", "CUDA_IMAGE", "CPU_IMAGE", "PIP_INDEX_URL", "TORCH_INDEX_URL"} <= set(given)
    assert (given["PIP_INDEX_URL"], given["TORCH_INDEX_URL"]) == ("", "")
    assert not re.search(r"https?://(?!127\.0\.0\.1)", "\n".join(LINES))


def test_the_service_is_not_root_has_a_health_check_and_keeps_its_data_outside() -> None:
    user = arguments("USER")[-1].split(":")[0]
    assert int(user) > 0
    assert f"--uid {user} " in " ".join(arguments("RUN"))
    assert "/readyz" in arguments("HEALTHCHECK")[0]
    assert arguments("VOLUME") == ['["/models", "/artifacts"]']


def test_health_check_is_a_program() -> None:
    words = arguments("HEALTHCHECK")[0].split(" CMD ")[1]
    code = eval(words)[2]
    compile(code, "HEALTHCHECK", "exec")
    assert "timeout=4" in code


def test_the_image_installs_by_the_script_and_nothing_else() -> None:
    runs = " ".join(arguments("RUN"))
    assert "deploy/install.sh /opt/rapid-diffusion" in runs
    assert "pip install" not in runs
    assert shlex.split(runs)


def test_installed_packages_are_those_that_were_tested() -> None:
    found = script("--check", sys.prefix, "dev")
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("words", [(), ("/tmp/x",), ("--check", "/tmp/x", "tpu"), ("a", "b", "c")])
def test_wrong_usage_is_told(words: tuple[str, ...]) -> None:
    answer = script(*words)
    assert answer.returncode == 2
    assert "deploy/install.sh PREFIX TARGET" in answer.stderr
