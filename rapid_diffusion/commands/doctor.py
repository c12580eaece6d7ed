"""`rapid-diffusion doctor`: what is there, what the machine can do, is the model intact."""

import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

DISTRIBUTION = "rapid-diffusion"
# What the kernels of torch look for, as /proc/cpuinfo spells it.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def doctor(
    model: Annotated[
        str, typer.Option(help="Name of a shipped model, or a model folder.")
    ] = "emoji-zh",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is installed, which device and attention there are, and whether the model is intact.

    Leaves with 3 if the model is not.
    """
    report = {**machine_facts(), "model": model_health(model)}
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else _as_text(report))
    if not report["model"]["intact"]:
        raise typer.Exit(3)


def machine_facts() -> dict[str, Any]:
    """Versions, devices, attention back ends and optional packages of this machine."""
    import torch

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "devices": _devices(),
        "threads": torch.get_num_threads(),
        "cpu": {"capability": torch.backends.cpu.get_cpu_capability(), "features": cpu_features()},
        "attention": _attention(),
        "packages": optional_packages(),
    }


def model_health(name_or_path: str) -> dict[str, Any]:
    """Whether every file of the model fits its checksum and the model can be built.

    `checksums` is False where the folder has no manifest: then only building was tried.
    """
    from knowledge.errors import KnowledgeError
    from rapid_diffusion import RapidDiffusionPipeline
    from rapid_diffusion.artifacts.loading import state_of_artifacts
    from rapid_diffusion.checkpoints.manifest import check_manifest
    from rapid_diffusion.commands.inspect import model_facts
    from rapid_diffusion.errors import RapidDiffusionError

    try:
        facts = model_facts(name_or_path)
        checked = check_manifest(facts["path"])
        pipe = RapidDiffusionPipeline.from_pretrained(name_or_path, device="cpu")
        dtype = next(pipe.model.denoiser.parameters()).dtype
        compiled = state_of_artifacts(Path(facts["path"]), pipe.device, dtype)
    except (RapidDiffusionError, KnowledgeError) as error:
        return {"name": name_or_path, "intact": False, "problem": " ".join(str(error).split())}
    kept = ("name", "path", "digest", "license", "megabytes", "parameters")
    health = {"intact": True, "checksums": checked, "problem": None, "artifacts": compiled}
    return {**health, **{name: facts[name] for name in kept}}


def cpu_features() -> list[str]:
    """Those of `CPU_FEATURES` that this processor has; none where the system does not say."""
    from rapid_diffusion.artifacts.identity import instruction_sets

    there = instruction_sets()
    return [name for name in CPU_FEATURES if name in there]


def _devices() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = [{"name": "cpu", "cores": os.cpu_count()}]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        gibibytes = round(properties.total_memory / 2**30, 1)
        found.append({"name": f"cuda:{i}", "model": properties.name, "gibibytes": gibibytes})
    return found


def _attention() -> dict[str, Any]:
    """Which back ends of attention exist here, and which of them "auto" takes."""
    from rapid_diffusion.attention import backends_here, picks_here

    return {**backends_here(), "picks": picks_here()}


def optional_packages() -> list[dict[str, Any]]:
    """Every package of an extra: its version or None, and how to install it."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    pattern = re.compile(r"""([\w.-]+).*;.*extra == ['"](\w+)['"]""")
    found = [match.groups() for line in requirements if (match := pattern.match(line))]
    return [
        {
            "package": name,
            "version": installed_version(name),
            "install": f"pip install '{DISTRIBUTION}[{extra}]'",
        }
        for name, extra in found
    ]


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, None if it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _as_text(report: dict[str, Any]) -> str:
    cpu, model = report["cpu"], report["model"]
    devices = [", ".join(f"{k} {v}" for k, v in device.items()) for device in report["devices"]]
    lines = [
        f"python     {report['python']} ({sys.executable}), {report['system']}",
        f"torch      {report['torch']}, {report['threads']} threads",
        f"cpu        {cpu['capability']}: {', '.join(cpu['features']) or 'no known features'}",
        *(f"device     {device}" for device in devices),
        *(f"attention  {line}" for line in _attention_lines(report["attention"])),
        *(f"package    {p['package']}: {_state(p)}" for p in report["packages"]),
    ]
    if model["intact"]:
        state = "intact" if model["checksums"] else "loads; it has no checksums to compare with"
        state += f", {model['parameters'] / 1e6:.1f} M parameters, {model['megabytes']} MB"
        lines += [f"model      {model['name']}: {state}, {model['digest']}"]
        return "\n".join([*lines, f"artifacts  {model['artifacts']}"])
    return "\n".join([*lines, f"model      {model['name']}: NOT intact: {model['problem']}"])


def _attention_lines(report: dict[str, Any]) -> list[str]:
    there = [f"{name}: {_yes(report[name])}" for name in report if name != "picks"]
    return there + [f"for {case}: {backend}" for case, backend in report["picks"].items()]


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _state(package: dict[str, Any]) -> str:
    return package["version"] or f"missing ({package['install']})"
