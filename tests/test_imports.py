"""What an import loads, what the package promises, which way its own imports run."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import kosa

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
HEAVY = (
    "numba",
    "scipy",
    "torch",
    "jax",
    "pyarrow",
    "pandas",
    "sklearn",
    "click",
    "rich",
    "jinja2",
    "triton",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def loaded_by(code: str) -> list[str]:
    done = python(f"import sys\n{code}\nprint(*sorted({set(HEAVY)!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_loads_numpy_at_most() -> None:
    assert loaded_by("import kosa") == []


def test_a_loss_loads_no_other_framework() -> None:
    loaded = loaded_by("import kosa\nkosa.cross_entropy([0], logits=[[1.0, 2.0]])")
    assert "numba" in loaded
    assert not {"torch", "jax", "pyarrow", "pandas", "sklearn", "click", "rich", "jinja2"} & set(loaded)


def test_kosa_torch_loads_no_engine_for_gpus() -> None:
    assert "triton" not in loaded_by("import kosa.torch")
    on_a_cpu = "import torch, kosa.torch\nkosa.torch.cross_entropy(torch.zeros(1, 2), torch.tensor([0]))"
    assert "triton" not in loaded_by(on_a_cpu)


def test_the_definition_loads_no_engine() -> None:
    assert loaded_by("import kosa\nkosa.definition") == []


def test_help_of_the_command_line_loads_no_engine() -> None:
    loaded = loaded_by(
        "from click.testing import CliRunner\nfrom kosa.cli import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0"
    )
    assert not {"numba", "torch", "jax", "pyarrow", "pandas", "sklearn"} & set(loaded)


def test_all_is_sorted_and_every_name_is_there() -> None:
    names = [name for name in kosa.__all__ if name != "definition"]
    assert names == sorted(names)
    for name in kosa.__all__:
        assert getattr(kosa, name) is not None
        assert name in dir(kosa)


def test_every_public_function_is_in_all() -> None:
    import kosa.functional
    import kosa.linear

    public = {
        name
        for module in (kosa.functional, kosa.linear)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    } - {"as_options", "on_tensors"}  # which the two modules share
    assert len(public) >= 8
    assert public <= set(kosa.__all__)


def test_every_public_function_says_what_it_does() -> None:
    for name in kosa.__all__:
        assert inspect.getdoc(getattr(kosa, name)), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kosa' has no attribute 'cross_entropi'"):
        kosa.cross_entropi  # noqa: B018


def test_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert kosa.__version__ == version("kosa")


def test_the_definition_imports_numpy_alone() -> None:
    tree = ast.parse((SOURCE / "kosa" / "definition.py").read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


def lint_imports(folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    return subprocess.run(
        [command, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_imports_run_down_only() -> None:
    done = lint_imports(ROOT, SOURCE)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("loss", "from kosa import functional", "Imports run down only"),
        ("functional", "import kosa.explanation", "Imports run down only"),
        ("functional", "from kosa.definition import cross_entropy", "Only the explanation"),
        ("definition", "import kosa.loss", "The definition shares no code"),
        ("functional", "import numba", "Compiled code lives in the engine"),
        ("loss", "import click", "Only the command line"),
        ("gpu/__init__", "import kosa.cpu.layout", "Imports run down only"),
        ("torch/__init__", "import triton", "Triton lives in the engine for GPUs"),
    ],
)
def test_an_import_against_the_layers_is_caught(
    tmp_path: Path, module: str, line: str, contract: str
) -> None:
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    file = tmp_path / "src" / "kosa" / f"{module}.py"
    file.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    done = lint_imports(tmp_path, tmp_path / "src")
    assert done.returncode == 1, done.stdout
    broken = [text for text in done.stdout.splitlines() if text.strip().endswith("BROKEN")]
    assert any(contract in text for text in broken), done.stdout


@pytest.mark.parametrize("entry", ["import kosa.cli", "import runpy; runpy.run_module('kosa.cli')"])
def test_command_line_without_its_extra_names_the_install_command(entry: str) -> None:
    done = python(f"import sys\nsys.modules['click'] = None\n{entry}")
    assert done.returncode == 1
    assert done.stderr == 'kosa: the command line needs the "score" extra: pip install "kosa[score]"\n'


@pytest.mark.parametrize(
    ("absent", "call", "message"),
    [
        (
            "pyarrow",
            "kosa.score('x.parquet', target='t', logits='z*')",
            'needs pyarrow: pip install "kosa[score]"',
        ),
        (
            "rich",
            "sys.argv = ['kosa', 'bench', '--list']; main()",
            'needs the "score" extra: pip install "kosa[score]"',
        ),
    ],
)
def test_what_an_absent_extra_would_do_names_the_install_command(
    tmp_path: Path, absent: str, call: str, message: str
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\nsys.modules[{absent!r}] = None\nimport kosa\nfrom kosa.cli import main\n{call}",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr


def test_losses_need_no_extra() -> None:
    absent = {name: None for name in HEAVY if name != "numba"}
    done = python(
        f"import sys\nsys.modules.update({absent!r})\nimport kosa\n"
        "print(kosa.cross_entropy([1], logits=[[0.0, 0.0]]))"
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(0.6931471805599453, rel=1e-7)


def test_kosa_torch_without_pytorch_says_what_to_install() -> None:
    done = python("import sys\nsys.modules['torch'] = None\nimport kosa.torch")
    assert done.returncode == 1
    assert '`kosa.torch` needs PyTorch: pip install "kosa[torch]"' in done.stderr
