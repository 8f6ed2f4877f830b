"""API keys: shown once, kept as hashes, compared in constant time, and refused where others could have written them."""

from __future__ import annotations

import hmac
import multiprocessing
import re
from pathlib import Path

import pytest

from tests.cli.support import tidemill
from tidemill.errors import ConfigError, NotFound
from tidemill.realtime.security.keys import create_key, read_keys, revoke_keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_key_is_known_again_and_the_file_does_not_hold_it(file: Path) -> None:
    shop, ops = create_key(file, "shop", ["infer:fraud*"]), create_key(file, "ops", ["admin", "read"])
    keys = read_keys(file)
    found = keys.holder(shop.encode()), keys.holder(ops.encode())
    assert [(key.name, key.scopes) for key in found if key] == [
        ("shop", ("infer:fraud*",)),
        ("ops", ("admin", "read")),
    ]
    text = file.read_text()
    assert shop not in text
    assert shop.rpartition("_")[2] not in text
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert re.fullmatch(r"tm_[0-9a-f]{12}_[\w-]{43}", shop)


def test_what_is_not_quite_a_key_is_nobodys(file: Path) -> None:
    shop, other = create_key(file, "shop", ["infer"]), create_key(file, "other", ["infer"])
    keys = read_keys(file)
    swapped = f"{shop[:15]}_{other[16:]}"  # the ID of one with the secret of the other
    wrong = [
        shop[:-1], shop + "A", shop[:-1] + ("A" if shop[-1] != "A" else "B"), shop.upper(), f" {shop}", f"{shop}\n",
        swapped, shop[:16], "tm_", "", shop.replace("tm_", "TM_"), f"{shop}, {shop}", "tm_" + "0" * 12 + shop[15:],
        shop.rpartition("_")[2], read_keys(file).by_id[shop[3:15]].sha256, "\x00" * 60,
    ]  # fmt: skip
    for token in wrong:
        assert keys.holder(token.encode()) is None, token
    assert keys.holder(b"\xff" * 10_000) is None


def test_a_revoked_key_is_nobodys_and_stays_listed(file: Path) -> None:
    old, new = create_key(file, "shop", ["infer"]), create_key(file, "shop", ["infer"])
    assert revoke_keys(file, old[3:15]) == 1
    keys = read_keys(file)
    assert keys.holder(old.encode()) is None
    assert keys.holder(new.encode()) is not None
    assert len(keys.by_id) == 2
    assert revoke_keys(file, "shop") == 1
    with pytest.raises(NotFound, match="no such key in use"):
        revoke_keys(file, "shop")


def test_wrong_and_unknown_keys_are_compared_alike(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = create_key(file, "shop", ["infer"])
    keys = read_keys(file)
    compared = []

    def watch(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", watch)
    for token in (shop, shop[:-1] + "-", "tm_000000000000" + shop[15:], "nothing"):
        keys.holder(token.encode())
    assert compared == [(64, 64)] * 4


@pytest.mark.parametrize("mode", [0o644, 0o606, 0o660, 0o620, 0o777])
def test_a_file_that_others_could_read_or_change_is_refused(mode: int, file: Path) -> None:
    create_key(file, "shop", ["infer"])
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"its mode is {mode:04o}.*chmod 600"):
        read_keys(file)
    with pytest.raises(ConfigError, match="its mode is"):
        create_key(file, "ops", ["admin"])


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
def test_modes_of_mounted_secrets_are_taken(mode: int, file: Path) -> None:
    shop = create_key(file, "shop", ["infer"])
    file.chmod(mode)
    assert read_keys(file).holder(shop.encode()) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "format: required"),
        ("format = 2", "format: expected one of 1"),
        ("format = 1\n[keys.0123456789ab]\nname = 'x'", "sha256: required"),
        ("format = 1\n[keys.0123456789ab]\nsecret = 'x'", "unknown key"),
        ("format = 1\n[keys.short]\nname = 'x'", "keys"),
        ("not toml", "keys.toml"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_name(text: str, message: str, file: Path) -> None:
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_keys(file)


@pytest.mark.parametrize("scope", ["", "write", "infer:", "infer:a b", "infer:*x", "infer:a:b", "infer\n", "INFER"])
def test_scopes_that_are_none_are_refused(scope: str, file: Path) -> None:
    with pytest.raises(ConfigError, match="expected infer, read or admin"):
        create_key(file, "shop", [scope])
    assert not file.exists()


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00", "x" * 129])
def test_names_that_would_spoil_a_log_are_refused(name: str, file: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        create_key(file, name, ["infer"])


def _make(file: Path, name: str) -> None:
    for i in range(10):
        create_key(file, f"{name}{i}", ["infer"])


def test_keys_made_at_the_same_time_are_all_kept(file: Path) -> None:
    context = multiprocessing.get_context("spawn")
    makers = [context.Process(target=_make, args=(file, name)) for name in "abc"]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert len(read_keys(file).by_id) == 30


def test_the_commands(file: Path) -> None:
    made = tidemill("keys", "new", "shop", "--scope", "infer:fraud*", "--scope", "read", "--file", file)
    key = made.stdout.strip()
    assert read_keys(file).holder(key.encode())
    listed = tidemill("keys", "list", "--file", file).stdout
    assert "infer:fraud* read" in listed
    assert key not in listed
    assert tidemill("keys", "revoke", "shop", "--file", file).exit_code == 0
    assert read_keys(file).holder(key.encode()) is None
    assert '"revoked": "20' in tidemill("keys", "list", "--json", "--file", file).stdout
    assert tidemill("keys", "revoke", "shop", "--file", file).exit_code == 2
    wrong = tidemill("keys", "new", "shop", "--scope", "all", "--file", file)
    assert wrong.exit_code == 2
    assert "expected infer, read or admin" in wrong.stderr
