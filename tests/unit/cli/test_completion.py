"""What shells are offered, through click's interface of completion and, for bash, by a bash at a terminal."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.main import group
from gmml_cluster.cli.shells import SHELLS, variable_of
from gmml_cluster.cli.submit import command as submit
from gmml_cluster.run.root import create_run
from gmml_cluster.spec.loading.validate import dump, load_job

ROOT = Path(__file__).parents[3]
PROGRAMS = {"gmml": group, "gmml-submit": submit}


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    """A folder with two runs, a job file and a profile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("vit-a", "vit-b"):
        create_run(str(tmp_path / "runs"), name, {}, {"spec": "0", "code": "0", "versions": {}})
    (tmp_path / "runs" / "no-run").mkdir()
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "alps.yaml").write_text("{launcher: slurm, root: runs}")
    (tmp_path / "mine.yaml").write_text("name: mine")
    return tmp_path


def offered(line, shell="fish"):
    """What a shell's class gives for a line up to the cursor, as click parses it."""
    program, *words = line.split(" ")
    completer = SHELLS[shell](PROGRAMS[program], {}, program, variable_of(program))
    return [item.value for item in completer.get_completions(words[:-1], words[-1])]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gmml st", ["status"]),
        ("gmml status vit", ["vit-a", "vit-b"]),
        ("gmml status no", []),
        ("gmml cancel vit-a vit", ["vit-a", "vit-b"]),
        ("gmml diff vit-a vit-", ["vit-a", "vit-b"]),
        ("gmml log --root elsewhere vit", []),
        ("gmml resume vit-a --cluster a", ["alps"]),
        ("gmml order mi", ["mine.yaml"]),
        ("gmml order vit-a", ["vit-a"]),
        ("gmml eval vit-a --cluster s", ["slurm"]),
        ("gmml-submit quickstart_", ["quickstart_mae"]),
        ("gmml-submit mi", ["mine.yaml"]),
        ("gmml-submit quickstart --cluster l", ["local"]),
        ("gmml-submit quickstart see", ["seed="]),
        ("gmml-submit quickstart opt", ["optim."]),
        ("gmml-submit quickstart optim.lr", ["optim.lr=", "optim.lr_per="]),
        ("gmml-submit quickstart optim.cl", ["optim.clip.", "optim.clip="]),
        ("gmml-submit quickstart optim.lr=", []),
        ("gmml-submit quickstart method.name=ma", ["method.name=mae"]),
        ("gmml-submit quickstart engine.determ", ["engine.deterministic="]),
        ("gmml-submit quickstart engine.deterministic=t", ["engine.deterministic=true"]),
        ("gmml-submit quickstart --sweep optim.l", ["optim.lr=", "optim.lr_per="]),
        ("gmml-submit quickstart nowhere.x", []),
        ("gmml-submit quickstart ext", []),
    ],
)  # fmt: skip
def test_what_fits_is_offered(line, expected):
    assert offered(line) == expected


@pytest.fixture(scope="module")
def fields():
    """All that is offered, one section after the other."""
    return {each.rstrip("=") for each in all_fields()}


def all_fields(prefix=""):
    for each in offered(f"gmml-submit quickstart {prefix}"):
        yield from all_fields(each) if each.endswith(".") else [each]


def leaves(value, above=""):
    """Paths of what a job says, down to lists and single values."""
    for name, inner in value.items():
        yield from leaves(inner, f"{above}{name}.") if isinstance(inner, dict) and inner else [f"{above}{name}"]


@pytest.mark.parametrize("job", sorted(file.name for file in (ROOT / "jobs").glob("*.yaml")))
def test_every_field_of_a_job_is_reached_section_by_section(job, fields):
    assert set(leaves(dump(load_job(ROOT / "jobs" / job)))) - fields == set()


def test_what_is_offered_as_a_value_is_one():
    for override in ("method.name=mae", "engine.precision=bf16", "optim.clip=null"):
        assert override in offered(f"gmml-submit quickstart {override[:-1]}")
        load_job("quickstart", [override] if "method" not in override else ["method={name: mae}"])


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_both_programs_and_asks_them_by_their_variables(shell):
    done = CliRunner().invoke(group, ["completion", shell])
    assert done.exit_code == 0
    for program in PROGRAMS:
        assert f"{variable_of(program)}" in done.output
    assert "%(" not in done.output


def test_zsh_puts_no_space_behind_what_goes_on():
    assert "-S '' -- ${(M)completions:#*[=.]}" in SHELLS["zsh"].source_template


@pytest.mark.parametrize(
    ("line", "breaks", "expected"),
    [
        ("gmml-submit quickstart engine.precision=b", "=:", "bf16"),
        ("gmml-submit quickstart engine.precision=b", "", "engine.precision=bf16"),
        ("gmml-submit quickstart engine.prec", "=:", "engine.precision="),
    ],
)
def test_bash_is_given_what_follows_its_own_breaks(line, breaks, expected):
    asked = {**os.environ, "COMP_LINE": line, "COMP_BREAKS": breaks, "_GMML_SUBMIT_COMPLETE": "bash_complete"}
    script = "import sys; sys.argv = ['gmml-submit']; from gmml_cluster.cli.submit import main; main()"
    done = subprocess.run([sys.executable, "-c", script], env=asked, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"plain,{expected}\n", "")


def test_a_fault_stays_out_of_the_line_that_is_typed(there):
    (there / "clusters" / "alps.yaml").write_text("root: [")
    asked = {**os.environ, "COMP_LINE": "gmml status ", "_GMML_COMPLETE": "bash_complete"}
    script = "import sys; sys.argv = ['gmml']; from gmml_cluster.cli.main import gmml; gmml()"
    done = subprocess.run([sys.executable, "-c", script], env=asked, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def programs(folder):
    """`gmml` and `gmml-submit` as an installation has them."""
    for program, entry in (("gmml", "main import gmml"), ("gmml-submit", "submit import main as gmml")):
        path = folder / program
        path.write_text(f"#!{sys.executable} -P\nfrom gmml_cluster.cli.{entry}\ngmml()\n")
        path.chmod(0o755)


BASH = 'eval "$(gmml completion bash)"\nPS1="ready> "\nbind "set enable-bracketed-paste off"\n'
ZSH = 'autoload -Uz compinit\ncompinit -u -D\neval "$(gmml completion zsh)"\nbindkey -e\nPS1="ready> "\n'


@contextmanager
def at_a_terminal(folder, *shell):
    """The terminal of a shell that has read its script of completion."""
    programs(folder)
    path = {"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder), "ZDOTDIR": str(folder)}
    (folder / "rc").write_text(BASH)
    (folder / ".zshrc").write_text(ZSH)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(shell[0], shell, {**path, "TERM": "dumb"})
    try:
        read_until(terminal, "ready> ")
        yield terminal
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal, word, limit_s=600):
    shown, deadline = "", time.monotonic() + limit_s
    while word not in rubbed_out(shown):
        assert time.monotonic() < deadline, repr(shown)
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode()
    return shown


def rubbed_out(shown):
    """What is left on the screen where a shell goes back over what it wrote."""
    left = []
    for character in shown.replace("\x07", ""):
        left.pop() if character == "\b" and left else left.append(character)
    return "".join(left)


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} here")


LINES = [
    ("gmml stat", "gmml status "),
    ("gmml-submit quickstart_", "gmml-submit quickstart_mae "),
    ("gmml-submit quickstart --cluster al", "gmml-submit quickstart --cluster alps "),
    ("gmml-submit quickstart opt", "gmml-submit quickstart optim."),
    ("gmml-submit quickstart batch.s", "gmml-submit quickstart batch.size="),
    ("gmml-submit quickstart engine.precision=b", "gmml-submit quickstart engine.precision=bf16 "),
]


@needs("bash")
@pytest.mark.parametrize(("typed", "line"), [*LINES, ("gmml status vit-", "gmml status vit-")])
def test_a_bash_at_a_terminal_completes_the_line(there, typed, line):
    with at_a_terminal(there, "bash", "--noprofile", "--rcfile", str(there / "rc"), "-i") as terminal:
        # Ctrl-A and Ctrl-E: the completed line becomes a word that is printed
        os.write(terminal, f"{typed}\t\x01printf '[%s]' '\x05'; echo end$((1+1))\n".encode())
        assert read_until(terminal, "end2").rpartition("[")[2].rpartition("]")[0] == line


@needs("zsh")
@pytest.mark.parametrize(("typed", "line"), LINES)
def test_a_zsh_at_a_terminal_completes_the_line(there, typed, line):
    with at_a_terminal(there, "zsh", "-d", "-i") as terminal:
        os.write(terminal, f"{typed}\t".encode())
        # keys that are typed meanwhile would be lost, and take the space away that was added
        assert rubbed_out(read_until(terminal, line)).count(line) == 1


@needs("fish")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("gmml stat", ["status"]),
        ("gmml status vit-", ["vit-a", "vit-b"]),
        ("gmml-submit quickstart --cluster al", ["alps"]),
        ("gmml-submit quickstart batch.s", ["batch.size="]),
        ("gmml-submit quickstart engine.precision=b", ["engine.precision=bf16"]),
    ],
)
def test_a_fish_offers_what_completes_the_line(there, typed, offered):
    programs(there)
    path = {"PATH": f"{there}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(there)}
    script = f"gmml completion fish | source; complete -C '{typed}'"
    environment = {**path, "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    done = subprocess.run(["fish", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == offered
