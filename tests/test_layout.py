"""The rules of the house: who may know whom, how long a file is, what the checkout weighs."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rapid_diffusion", "server", "knowledge")
MEBIBYTE = 2**20
# What the service may take from the library beside its public names: the image encoders, which are
# called in the service's own pool, and the error tree.
OPEN_MODULES = {"rapid_diffusion.errors", "rapid_diffusion.images", "rapid_diffusion.testing"}


@cache
def tracked() -> list[PurePath]:
    """Every tracked file, relative to the root; in the working tree, so that a deletion counts."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [PurePath(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


def sources(*rooms: str) -> list[PurePath]:
    """Tracked Python files whose first folder is one of `rooms`; all when none is named."""
    return [f for f in tracked() if f.suffix == ".py" and (not rooms or f.parts[0] in rooms)]


@cache
def tree(file: PurePath) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=str(file))


def top_level(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run on import: everything outside functions and `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from top_level(child)


def imported(file: PurePath, nodes: Iterator[ast.AST]) -> list[str]:
    """Dotted names that `nodes` import: `from a.b import c` gives `a.b.c`."""
    package = ".".join(file.parts[:-1])
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def imports_of(file: PurePath) -> list[str]:
    return imported(file, ast.walk(tree(file)))


def root_of(name: str) -> str:
    return name.split(".")[0]


def test_there_are_three_packages_and_no_other():
    packages = {file.parts[0] for file in tracked() if file.parts[1:] == ("__init__.py",)}
    assert packages == set(PACKAGES)


def test_knowledge_imports_neither_of_the_others_and_torch_only_in_transe():
    wrong = [
        f"{file}: {name}"
        for file in sources("knowledge")
        for name in imports_of(file)
        if root_of(name) in {"rapid_diffusion", "server", "diffusers", "transformers"}
        or (root_of(name) == "torch" and file.name != "transe.py")
    ]
    assert not wrong


def may_import_server(file: PurePath) -> bool:
    """`serve` imports the service, and only when it is called."""
    in_command_line = file.parts[1] in {"cli.py", "commands"}
    return in_command_line and "server" not in map(root_of, imported(file, top_level(tree(file))))


def test_nobody_imports_the_server_but_the_serve_command():
    knowing = [f for f in sources("rapid_diffusion") if "server" in map(root_of, imports_of(f))]
    assert [file for file in knowing if not may_import_server(file)] == []


def is_open_to_the_server(name: str) -> bool:
    import rapid_diffusion

    public = getattr(rapid_diffusion, "__all__", [])
    first = name.removeprefix("rapid_diffusion.").split(".")[0]
    return (
        name == "rapid_diffusion"
        or name in {f"rapid_diffusion.{public_name}" for public_name in public}
        or f"rapid_diffusion.{first}" in OPEN_MODULES
    )


def test_the_server_uses_public_names_of_the_library_only():
    used = {
        (str(file), name)
        for file in sources("server")
        for name in imports_of(file)
        if root_of(name) == "rapid_diffusion"
    }
    assert {(file, name) for file, name in used if not is_open_to_the_server(name)} == set()


def test_heavy_libraries_are_imported_inside_functions_only():
    wrong = [
        f"{file}: {name}"
        for file in sources(*PACKAGES)
        for name in imported(file, top_level(tree(file)))
        if root_of(name) in {"diffusers", "transformers"}
    ]
    assert not wrong


IMPORT_EVERYTHING = """
import os, pathlib, pkgutil, sys, importlib, threading
before, threads = dict(os.environ), threading.active_count()
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        if not found.name.endswith(".__main__"):
            importlib.import_module(found.name)
assert not {"diffusers", "transformers"} & set(sys.modules), "imported a heavy library"
if torch := sys.modules.get("torch"):
    assert not torch.cuda.is_initialized(), "initialised CUDA"
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()
assert dict(os.environ) == before, "changed the environment"
assert threading.active_count() == threads, "started a thread"
made = [str(path) for path in pathlib.Path.cwd().rglob("*")]
assert not made, f"made {made}"
"""


def test_importing_any_module_does_nothing(tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_EVERYTHING, *PACKAGES],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout + run.stderr == ""


def test_no_source_file_is_longer_than_300_lines():
    long = {str(file): (ROOT / file).read_bytes().count(b"\n") for file in sources()}
    assert {file: lines for file, lines in long.items() if lines > 300} == {}


def test_no_function_is_longer_than_60_lines():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [(file, node) for file in sources() for node in ast.walk(tree(file))]
    functions = [(file, node) for file, node in nodes if isinstance(node, kinds)]
    long = [f"{f}:{n.lineno} {n.name}" for f, n in functions if n.end_lineno - n.lineno >= 60]
    assert long == []


def test_the_tracked_files_stay_under_36_mebibytes_and_the_model_under_32_megabytes():
    sizes = {file: (ROOT / file).stat().st_size for file in tracked()}
    model = [
        size for file, size in sizes.items() if file.parts[:2] == ("rapid_diffusion", "models")
    ]
    assert sum(sizes.values()) < 36 * MEBIBYTE
    assert sum(model) <= 32_000_000


def test_every_data_file_of_a_package_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]
    data = [f for f in tracked() if f.parts[0] in PACKAGES and f.suffix != ".py"]
    shipped = {
        path.relative_to(ROOT)
        for package, globs in patterns.items()
        for pattern in globs
        for path in (ROOT / package).glob(pattern)
    }
    assert [str(file) for file in data if file not in shipped] == []


def readme_commands() -> list[list[str]]:
    """The READMEs' commands that call something of ours, fenced and inline, as words."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("README*.md")))
    blocks = re.findall(r"```(?:bash|sh|shell|console)\n(.*?)```", text, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:make|python|rapid-diffusion) [^`\n]+)`", text)
    ours = re.compile(r"(\w+=\S* )*(\S*/)?(make|python[\d.]*|rapid-diffusion|\S+\.(py|sh))\b")
    commands = [line.removeprefix("$ ") for line in lines + inline]
    return [command.split("#")[0].split() for command in commands if ours.match(command)]


def exists(words: list[str]) -> bool:
    """Whether the script, module, make target or subcommand that `words` call is there."""
    program, *rest = [word for word in words if not re.match(r"[A-Z_]+=", word)] or [""]
    name = Path(program).name
    if name == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in rest if "=" not in word and not word.startswith("-")]
        return all(re.search(rf"^{re.escape(t)}:", makefile, re.M) for t in targets)
    if name.startswith("python") and rest[:1] == ["-m"]:
        path = ROOT / rest[1].replace(".", "/")
        ours = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        return ours or root_of(rest[1]) in {"venv", "pip", "pytest", "ruff", "mypy"}
    if name.startswith("python") and rest and rest[0].endswith(".py"):
        return (ROOT / rest[0]).is_file()
    if name == "rapid-diffusion":
        commands = {path.stem for path in (ROOT / "rapid_diffusion" / "commands").glob("*.py")}
        return not rest or rest[0].startswith("-") or rest[0] in commands
    return not name.endswith((".py", ".sh")) or (ROOT / program).is_file()


def test_every_command_in_the_readme_exists():
    assert [" ".join(words) for words in readme_commands() if not exists(words)] == []


@pytest.mark.parametrize("command", ["make nothing", "python x.py", "rapid-diffusion dance"])
def test_a_command_that_does_not_exist_is_seen(command):
    assert not exists(command.split())
