"""Settings come from a file and from variables, and a mistake in either is named."""

from pathlib import Path

import pytest

from ops.embedded.external import external_endpoints, kafka_options
from ops.errors import Refused
from ops.settings import Settings, load_settings, read_secret


def _written(folder: Path, text: str) -> Path:
    path = folder / "mia.toml"
    path.write_text(text)
    return path


def test_without_a_file_everything_has_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file and no variable is the embedded stack in `.mia`."""
    monkeypatch.chdir(tmp_path)
    assert Settings() == load_settings(environ={})


def test_the_file_in_the_current_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mia.toml` needs no naming."""
    _written(tmp_path, "[worker]\nslots = 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}).worker.slots == 3


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    """A variable names the same key, and its text becomes the key's type."""
    path = _written(tmp_path, "[worker]\nslots = 3\nlease_s = 5\n")
    found = load_settings(path, {"MIA_WORKER__SLOTS": "7", "MIA_HOME": "/data", "MIA_OTHER": "x"})
    assert (7, 5.0, "/data") == (found.worker.slots, found.worker.lease_s, found.home)


def test_a_variable_may_hold_a_list(tmp_path: Path) -> None:
    """Whatever the file may say, a variable may; what is no list says how one is written."""
    path, name = _written(tmp_path, ""), "MIA_SERVING__REPLICAS"
    found = load_settings(path, {name: '["http://a/v1", "http://b/v1"]'})
    assert ["http://a/v1", "http://b/v1"] == list(found.serving.replicas)
    with pytest.raises(Refused, match=name):
        load_settings(path, {name: '["http://a/v1"'})


@pytest.mark.parametrize(
    "text,near",
    [
        ("[worker]\nslot = 3\n", "Did you mean worker.slots?"),
        ("[kafak]\n", "Did you mean kafka?"),
        ("[models.planner.sampling]\ntemprature = 1\n", "models.planner.sampling.temperature"),
        ("[worker]\nzzzz = 3\n", "Known: slots"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(
    tmp_path: Path, text: str, near: str
) -> None:
    """A typing error is no silent default."""
    with pytest.raises(Refused) as refused:
        load_settings(_written(tmp_path, text), {})
    assert near in str(refused.value)


def test_an_unknown_variable_is_refused(tmp_path: Path) -> None:
    """Variables are held to the same names."""
    with pytest.raises(Refused, match=r"Did you mean worker\.slots"):
        load_settings(_written(tmp_path, ""), {"MIA_WORKER__SLOT": "7"})


def test_a_wrong_type_names_the_key(tmp_path: Path) -> None:
    """The message says where."""
    with pytest.raises(Refused, match=r"Expected `int`.*worker.slots"):
        load_settings(_written(tmp_path, '[worker]\nslots = "many"\n'), {})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """Only the file nobody named may be missing."""
    with pytest.raises(Refused, match="there is no settings file"):
        load_settings(None, {"MIA_CONFIG": str(tmp_path / "none.toml")})


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    """What the parser says reaches the user."""
    with pytest.raises(Refused, match="line 1"):
        load_settings(_written(tmp_path, "[worker\n"), {})


def test_a_role_takes_from_default_what_it_leaves_out(tmp_path: Path) -> None:
    """Roles share an endpoint without repeating it, nested keys included."""
    text = """
        [models.default]
        base_url = "http://127.0.0.1:8000/v1"
        model = "small"
        sampling = {temperature = 0.5, max_tokens = 9}
        [models.planner]
        model = "planner@v1"
        sampling = {temperature = 1.0}
    """
    models = load_settings(_written(tmp_path, text), {}).models
    assert models.planner.base_url == "http://127.0.0.1:8000/v1"
    assert models.planner.model == "planner@v1"
    assert (1.0, 9) == (models.planner.sampling.temperature, models.planner.sampling.max_tokens)
    assert models.judge == models.default


def test_a_secret_is_its_file_without_the_line_end(tmp_path: Path) -> None:
    """Editors end a file with a newline; passwords do not."""
    (tmp_path / "password").write_text("s3cret\n")
    assert read_secret(str(tmp_path / "password")) == "s3cret"


@pytest.mark.parametrize("content", [None, " \n"])
def test_a_missing_or_empty_secret_is_refused(tmp_path: Path, content: str | None) -> None:
    """An empty password would be tried, and fail far from here."""
    path = tmp_path / "password"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Refused):
        read_secret(str(path))


@pytest.mark.parametrize(
    "text,remedy",
    [
        ('[kafka]\nmode = "external"\n', "Set kafka.bootstrap_servers"),
        ('[postgres]\nmode = "external"\n', "Set postgres.dsn"),
        (
            '[postgres]\nmode = "external"\ndsn = "postgresql://u@h/d"\n',
            "Set postgres.password_files.admin",
        ),
        (
            '[postgres]\nmode = "external"\ndsn = "postgresql://u:secret@h/d"\n',
            "name a file that holds it in postgres.password_files.admin",
        ),
    ],
)
def test_what_external_lacks_is_refused(tmp_path: Path, text: str, remedy: str) -> None:
    """The remedy is a key to set; a password in the settings is not accepted, nor repeated."""
    with pytest.raises(Refused) as refused:
        external_endpoints(load_settings(_written(tmp_path, text), {}))
    assert remedy in str(refused.value)
    assert "secret" not in str(refused.value)


def test_external_parts_come_with_their_passwords(tmp_path: Path) -> None:
    """Passwords are read from files and put where the clients want them."""
    (tmp_path / "admin").write_text("p@ss\n")
    (tmp_path / "kafka").write_text("word\n")
    text = f"""
        [kafka]
        mode = "external"
        bootstrap_servers = "broker:9092"
        security_protocol = "SASL_PLAINTEXT"
        sasl_username = "mia"
        sasl_password_file = "{tmp_path}/kafka"
        [postgres]
        mode = "external"
        dsn = "postgresql://owner@db:5432/mia?sslmode=require"
        password_files = {{admin = "{tmp_path}/admin"}}
    """
    settings = load_settings(_written(tmp_path, text), {})
    found = external_endpoints(settings)
    assert found.admin_dsn == "postgresql://owner:p%40ss@db:5432/mia?sslmode=require"
    assert {
        "bootstrap_servers": "broker:9092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "mia",
        "sasl_plain_password": "word",
    } == kafka_options(settings.kafka, found.bootstrap_servers)
