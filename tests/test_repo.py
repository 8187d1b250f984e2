"""Rules of the repository as tests: documents name what exists, imports stay clean, layers hold."""

import ast
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import context_as_memory
from context_as_memory.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "context_as_memory"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".html", ".js", ".css", ".sh", ".cfg", ""}


def project_files() -> list[Path]:
    """Every file that belongs to the project: tracked, or new and not ignored; all of them where git is not at hand."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = [name for name in listing.stdout.decode().split("\0") if name]
    else:
        hidden = re.compile(r"(^|/)(\.(?!ci/)|__pycache__|outputs/|runs/)")
        names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        names = [name for name in names if not hidden.search(name)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def text_files() -> list[Path]:
    return [path for path in project_files() if path.suffix in TEXT_SUFFIXES and path.name != "LICENSE"]


def code_blocks(language: str, document: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)


def run_python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def readme_commands() -> list[list[str]]:
    """Every `cam ...` line in shell blocks of the README and of docs/commands.md as words, without comments."""
    commands = []
    pattern = "(?:bash|sh|console)"
    for block in code_blocks(pattern) + code_blocks(pattern, COMMANDS):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split(" #")[0].strip().removeprefix("$ ").split()
            if words and words[0].endswith("cam"):
                commands.append(words[1:])
    return commands


def file_tree() -> list[str]:
    """The paths of the file tree in CONTRIBUTING.md: two blanks per level, folders end with a slash."""
    (block,) = [text for text in code_blocks("text", CONTRIBUTING) if text.startswith("README.md")]
    folders: list[str] = []
    paths = []
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        paths.append("/".join([*folders, name.rstrip("/")]))
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
    return paths


# ---------------------------------------------------------------------------------------------------- documents


def test_every_file_of_the_tree_exists_and_every_module_is_in_it() -> None:
    tree = file_tree()
    assert [path for path in tree if not (ROOT / path).exists()] == []
    opened = {path.rpartition("/")[0] for path in tree}  # a folder without entries of its own stands for its files
    modules = [path.relative_to(ROOT) for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    closed = {path for path in tree if path not in opened}
    inside = [m for m in modules if closed.isdisjoint(parent.as_posix() for parent in m.parents)]
    missing = [m for m in inside if m.as_posix() not in tree]
    assert missing == []


def test_relative_links_of_the_documents_lead_somewhere() -> None:
    broken = []
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert broken == []


def test_readme_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", "\n".join(code_blocks("bash")), flags=re.MULTILINE)
    assert {"explore", "demo", "test"} <= set(targets)
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_readme_command_has_help_that_knows_its_options(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    subcommand = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    with pytest.raises(SystemExit) as stop:
        main([*subcommand, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    # An unknown command answers with the help of the one above it, so look whose help this is.
    usage = text.splitlines()[0]
    assert usage.startswith(f"usage: cam {subcommand[0]} ") and "[-h] {" not in usage, usage
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    assert sorted(option for option in options if option not in text) == []


def test_package_runs_as_a_module() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "context_as_memory", "--version"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.split()) == (0, ["cam", context_as_memory.__version__]), result.stderr


def test_readme_python_imports_existing_names_and_memory_alone_needs_no_torch(tmp_path: Path) -> None:
    (generation,) = code_blocks("python")
    retrieval = (ROOT / "examples" / "00_retrieve.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(generation)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module
    result = run_python(retrieval + "\nimport sys\nassert 'torch' not in sys.modules", tmp_path)
    assert result.returncode == 0, result.stderr


def test_no_unfilled_figures_promises_or_paths_of_one_machine() -> None:
    patterns = {
        "an unfilled figure": re.compile("@@" + "FIGURE"),
        "a promise": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
        "a path of one machine": re.compile(r"(?<![\w.~:/-])/(work|root|home|opt|Users)/\w"),
    }
    found = []
    for path in text_files():
        text = path.read_text(encoding="utf-8")
        for name, pattern in patterns.items():
            found += [f"{path.relative_to(ROOT)}: {name}: {match.group()}" for match in pattern.finditer(text)]
    assert found == []


def test_no_file_grows_past_600_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in text_files()}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 600} == {}


# The method, read straight down. Beside it lie what is refused (`camera/checks`), the fast path (`retrieval/index`),
# the variants for known depths and for cameras that fly (`retrieval/surfaces`, `retrieval/space`, `camera/profiles`),
# and tables of contents (`__init__`).
METHOD = [
    "camera/core",
    "camera/actions",
    "codec",
    "diffusion",
    "memory",
    "retrieval/rule",
    "retrieval/choose",
    "retrieval/ground",
    "retrieval/overlap",
    "retrieval/cover",
    "retrieval/paper",
    "tokens",
    "transformer/config",
    "transformer/model",
    "transformer/placement",
    "world",
]
BESIDE = {"checks", "index", "surfaces", "space", "profiles", "__init__"}
MOST_FILES, MOST_LINES, MOST_LINES_OF_THE_WORLD, MOST_PARAMETERS = 16, 2700, 260, 7


def test_the_method_stays_short() -> None:
    files = [PACKAGE / f"{name}.py" for name in METHOD]
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    assert len(files) <= MOST_FILES and sum(lines) <= MOST_LINES and lines[-1] <= MOST_LINES_OF_THE_WORLD
    rooms = [path for folder in ("camera", "retrieval", "transformer") for path in (PACKAGE / folder).glob("*.py")]
    assert {path for path in rooms if path.stem not in BESIDE} <= set(files), "a file of the method is not counted"
    for path in {*files, *rooms}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                assert len([name for name in names if name not in ("self", "cls")]) <= MOST_PARAMETERS, node.name


def test_tests_carry_the_names_of_what_they_test() -> None:
    about_everything = {"build", "default_weights", "examples", "golden", "hashes", "repo"}
    modules = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    parts = [module.parts[:-1] if module.name == "__init__" else module.parts for module in modules]
    names = {"_".join(part[start:]) for part in parts for start in range(len(part))}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")} - about_everything
    named = {test for test in tests if any(test == name or test.startswith(f"{name}_") for name in names)}
    assert sorted(tests - named) == []


def test_every_page_of_the_docs_is_reachable() -> None:
    pages = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    hidden = {"log.md", "gpu-worklist.md"}
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(name for name in documents - hidden if name not in pages and not name.startswith("log/")) == []


# ---------------------------------------------------------------------------------------------------- packaging


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest is not None
    assert project["version"] == context_as_memory.__version__ == newest.group(1)


def test_constraints_pin_every_direct_dependency_and_nothing_local() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[<>=\[ ]", entry)[0] for entry in wanted}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line)] == []
    assert sorted(names - {line.split("==")[0] for line in lines}) == []


def test_freedoom_notice_travels_with_the_package() -> None:
    notice = (PACKAGE / "assets" / "FREEDOOM-NOTICE.txt").read_text(encoding="utf-8")
    assert notice in (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert "Contributors to the Freedoom project" in notice and notice.count("\n  * ") == 3


def test_ci_script_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------ imports


def test_public_names_are_all_there() -> None:
    for name in context_as_memory.__all__:
        assert getattr(context_as_memory, name) is not None
    assert set(context_as_memory.__all__) <= set(dir(context_as_memory))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = context_as_memory.no_such_name


def test_import_is_light_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "import context_as_memory, context_as_memory.camera, context_as_memory.retrieval\n"
        "import context_as_memory.cli.main, context_as_memory.data.episode\n"
        "heavy = ['torch', 'jaxtyping', 'diffusers', 'matplotlib', 'vizdoom', 'skimage', 'av']\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))\n"
    )
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    result = run_python(code, tmp_path, **places)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []
    assert list(tmp_path.rglob("*")) == []


def test_importing_the_world_changes_no_torch_setting(tmp_path: Path) -> None:
    code = (
        "import json, torch\n"
        "def state():\n"
        "    return [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled(),\n"
        "            torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),\n"
        "            torch.backends.cudnn.benchmark, torch.initial_seed()]\n"
        "torch.manual_seed(5)\n"
        "before = state()\n"
        "from context_as_memory import World\n"
        "import context_as_memory.training.trainer\n"
        "print(json.dumps([before, state()]))\n"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    before, after = json.loads(result.stdout)
    assert before == after


def test_import_contract_holds(tmp_path: Path) -> None:
    code = "import sys; from importlinter.cli import lint_imports_command as run; run(sys.argv[1:])"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo", "--config", str(ROOT / "pyproject.toml")]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
