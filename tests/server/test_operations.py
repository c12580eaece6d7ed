"""What operators are told is true: metrics, settings, options, alarms and files by their names."""

import inspect
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from rapid_diffusion.commands.serve import serve
from server.metrics import Metrics
from server.settings import Settings

ROOT = Path(__file__).parents[2]
PREFIX = "RAPID_DIFFUSION_"
TOLD = ["docs/service.md", "docs/operations.md", "deploy/alerts.yml"]
NAMING = [*TOLD[:2], "deploy/compose.yaml", "deploy/environment.example", "Dockerfile"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parsed(name: str) -> Any:
    return yaml.safe_load(text_of(name))


def alarms() -> list[dict[str, Any]]:
    return [rule for group in parsed("deploy/alerts.yml")["groups"] for rule in group["rules"]]


def settings_in(name: str) -> set[str]:
    """The settings that a file names in full, or in backticks without their prefix."""
    text = text_of(name)
    full = re.findall(rf"{PREFIX}([A-Z0-9_]+)", text)
    return {found.lower() for found in full + re.findall(r"`_([A-Z][A-Z0-9_]+)`", text)}


def exported(text: str) -> set[str]:
    """Every name that Prometheus would know, also those that have no sample yet."""
    known = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    parts = [f"{n}_{p}" for n, kind in known.items() if kind == "histogram" for p in PARTS]
    return set(known) | set(parts)


PARTS = ("bucket", "count", "sum")


@pytest.mark.parametrize("name", TOLD)
def test_every_metric_that_is_named_is_exported(client: httpx.Client, name: str) -> None:
    named = set(re.findall(r"\bt2i_\w+", text_of(name)))
    assert len(named) > 3
    assert named - exported(client.get("/metrics").text) == set()


def test_every_metric_is_told_of(client: httpx.Client) -> None:
    ours = {name for name in exported(client.get("/metrics").text) if not name.endswith(PARTS)}
    created = {name for name in ours if name.endswith("_created")}
    assert ours - created - set(re.findall(r"\bt2i_\w+", text_of("docs/service.md"))) == set()


@pytest.mark.parametrize("name", NAMING)
def test_every_setting_that_is_named_exists(name: str) -> None:
    named = settings_in(name)
    assert named
    assert named - set(Settings.model_fields) == set()


def test_every_setting_is_told_of() -> None:
    assert set(Settings.model_fields) - settings_in("docs/service.md") == set()


@pytest.mark.parametrize("name", TOLD[:2])
def test_every_option_of_serve_that_is_named_exists(name: str) -> None:
    there = {f"--{option.replace('_', '-')}" for option in inspect.signature(serve).parameters}
    lines = [line for line in text_of(name).splitlines() if "rapid-diffusion serve" in line]
    named = set(re.findall(r"\(`(--[a-z-]+)`\)", text_of(name)))
    named |= set(re.findall(r"--[a-z-]+", " ".join(lines)))
    assert named - there == set()


def test_every_alarm_is_explained_and_none_that_is_not_there() -> None:
    explained = re.findall(r"^\| `([A-Z]\w+)` \|", text_of("docs/operations.md"), re.M)
    assert explained == [rule["alert"] for rule in alarms()]


def test_alarms_ask_for_labels_that_their_metrics_have() -> None:
    kinds = [kind for kind in vars(Metrics()).values() if hasattr(kind, "_labelnames")]
    labels = {kind._name: set(kind._labelnames) for kind in kinds}
    for rule in alarms():
        for name, inside in re.findall(r"t2i_(\w+?)(?:_total|_bucket)?\{([^}]*)\}", rule["expr"]):
            asked = set(re.findall(r"(\w+)=", inside))
            assert asked <= labels[f"t2i_{name}"], rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= {
            "instance",
            *re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))),
        }


def test_compose_gives_what_the_settings_need(monkeypatch: pytest.MonkeyPatch) -> None:
    service = parsed("deploy/compose.yaml")["services"]["service"]
    wanted = re.compile(r"^\$\{\w+:\?[^}]+\}$")
    given = {
        "RAPID_DIFFUSION_CONTENT_PRODUCER": "SHOP001",
        "RAPID_DIFFUSION_ADMIN_TOKEN_SHA256": "0" * 64,
    }
    for name, value in {"RAPID_DIFFUSION_HOST": "0.0.0.0", **service["environment"]}.items():
        default = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
        monkeypatch.setenv(name, given[name] if wanted.match(value) else default)
    settings = Settings()
    published = {port.rsplit(":", 1)[1] for port in service["ports"]}
    assert published == {str(settings.port), str(settings.admin_port)}
    assert float(service["stop_grace_period"].removesuffix("s")) > settings.drain_seconds
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_compose_mounts_what_is_there() -> None:
    compose, prometheus = parsed("deploy/compose.yaml"), parsed("deploy/prometheus.yml")
    for mount in compose["services"]["prometheus"]["volumes"]:
        source = mount.split(":")[0]
        assert not source.startswith("./") or (ROOT / "deploy" / source).is_file()
    named = [v.split(":")[0] for s in compose["services"].values() for v in s["volumes"]]
    assert {name for name in named if name.isidentifier()} == set(compose["volumes"])
    assert " /state\n" in text_of("Dockerfile")  # made for the user the service runs as
    [scraped] = prometheus["scrape_configs"]
    assert scraped["static_configs"][0]["targets"] == ["service:8000"]
    assert all((ROOT / "deploy" / name).is_file() for name in prometheus["rule_files"])
