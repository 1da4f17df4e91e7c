"""Targets and the roles they are delegated to: scenarios of upstream's conformance suite in our own words, by the CLI.

(theupdateframework/tuf-conformance: graphs of delegations, downloads, odd names, expired roles, static repositories.)
"""

from __future__ import annotations

import functools
import threading
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, Metadata, SuccinctRoles, TargetFile, Targets

from tests.edge.update.cli_client import Client, set_clock
from tests.sim.tuf_repository import TufRepository, TufServer

TOP = ["2.root", "timestamp", "1.snapshot", "1.targets"]


def delegate(repository: TufRepository, graph: str) -> None:
    """`targets>A B>C!`: who delegates to whom, in this order; `!` ends the search, `[...]` has patterns (else all)."""
    roles = []
    for edge in graph.split():
        parent, _, rest = edge.partition(">")
        child, _, paths = rest.rstrip("!]").partition("[")
        repository.delegate(parent, child, paths.split(",") if paths else ["*"], terminating=edge.endswith("!"))
        roles += [child]
    repository.publish("targets", *dict.fromkeys(roles), bump=False)


def visited(client: Client) -> list[str]:
    """Roles asked for behind the top ones."""
    asked = [path.removeprefix("metadata/").removesuffix(".json") for path in client.asked("metadata/")]
    assert asked[:4] == TOP
    return [name.removeprefix("1.") for name in asked[4:]]


@pytest.mark.parametrize(
    ("graph", "order"),
    [
        ("targets>A", "A"),
        ("targets>A targets>B", "AB"),
        ("targets>A targets>B B>C", "ABC"),
        ("targets>A targets>B A>C A>D", "ACDB"),
        ("targets>A targets>B A>C C>D", "ACDB"),
        ("targets>A targets>B A>C! A>D", "AC"),
        ("targets>A targets>B A>C! C>D", "ACD"),
        ("targets>A[*.py] targets>B A>C", "B"),
        ("targets>A targets>B A>C[*.py] C>D", "AB"),
        ("targets>A targets>B B>C C>D D>B", "ABCD"),
        ("targets>A targets>B B>C A>C", "ACB"),
        ("targets>A targets>B B>C A>C[*.py]", "ABC"),
    ],
)
def test_roles_are_searched_depth_first_in_the_order_they_are_named(
    graph: str, order: str, repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    client = Client(server, tmp_path)
    delegate(repository, graph)
    assert client.download("missing") == 1
    assert visited(client) == list(order)
    assert client.contents() == []


@pytest.mark.parametrize(
    ("name", "order", "found"),
    [
        ("plain", "", True),
        ("READ.md", "A", True),
        ("READ.MD", "", False),
        ("pack-1.tgz", "A", True),
        ("pack-12.tgz", "", False),
        ("r/READ.md", "", False),
        ("r/x/one", "BC", True),
        ("r/y/two.zip", "BD", True),
        ("r/z/three.zip", "B", False),
    ],
)
def test_target_is_found_only_where_every_pattern_on_the_way_matches(
    name: str, order: str, found: bool, repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    client = Client(server, tmp_path)
    for role, names in {
        "targets": ["plain"],
        "A": ["READ.md", "r/READ.md", "pack-1.tgz", "pack-12.tgz"],
        "C": ["r/x/one"],
        "D": ["r/y/two.zip", "r/z/three.zip"],
    }.items():
        repository.roles.setdefault(role, Metadata(Targets(expires=repository.now + timedelta(days=30))))
        for each in names:
            repository.put(role, each, f"{each} by {role}".encode())
    delegate(repository, "targets>A[*.doc,*.md,pack-?.tgz] targets>B[r/*/*] B>C[r/x/*] B>D[r/y/*.zip]")
    assert client.download(name) == (0 if found else 1)
    assert visited(client) == list(order)
    assert client.contents() == ([f"{name} by {(order or ['targets'])[-1]}".encode()] if found else [])


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "a b", "%2e", "ü"])
def test_odd_role_is_asked_for_quoted_below_a_quoted_url(
    role: str, repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    repository.delegate("targets", role, ["*"])
    repository.add_key(role, "targets")
    repository.publish("targets", role, bump=False)
    below = quote(f"case[{role}]", "") + "/"
    repository.files |= {below + path: content for path, content in repository.files.items()}
    client = Client(server, tmp_path, below=below)
    assert client.download("no such target") == 1
    assert client.asked()[-1] == f"{below}metadata/1.{quote(role, '')}.json"
    assert len(list(client.metadata.glob("*.json"))) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"metadata", "targets", "initial.json"}


def test_role_that_the_snapshot_does_not_list_is_not_even_asked_for(
    repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    client = Client(server, tmp_path)
    delegate(repository, "targets>A[a/*]")
    repository.put("A", "a/x", b"x")
    repository.publish("A")
    del repository.signed("snapshot").meta["A.json"]
    repository.publish("snapshot")
    assert client.refresh() == 0
    client.asked()
    assert client.download("a/x") == 1
    assert client.asked() == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert not (client.metadata / "A.json").exists()


@pytest.mark.parametrize(("bits", "name", "role"), [(1, "boo", 0), (2, "too", 2), (8, "bar", 0xFC)])
def test_hash_bin_of_a_target_is_the_only_one_asked_for(
    bits: int, name: str, role: int, repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    client = Client(server, tmp_path)
    signer = CryptoSigner.generate_ed25519()
    bins = SuccinctRoles([], 1, bits, "bin")
    repository.signed("targets").delegations = Delegations({}, None, bins)
    repository.signed("targets").add_key(signer.public_key)
    every = list(bins.get_roles())
    for each in every:
        repository.roles[each] = Metadata(Targets(expires=repository.now + timedelta(days=30)))
        repository.signers[each] = [signer]
    repository.publish("targets", *every, bump=False)
    assert client.download(name) == 1
    assert visited(client) == [every[role]]


def test_role_known_through_one_parent_is_not_believed_through_another(
    repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    for parent, paths in (("a", ["a/*"]), ("b", ["b/*"])):
        repository.delegate("targets", parent, paths)
        repository.delegate(parent, "shared", paths)
    key_of_b = repository.signers["shared"].pop()
    assert repository.signed("b").delegations.roles["shared"].keyids == [key_of_b.public_key.keyid]
    repository.put("shared", "a/x", b"by a")
    repository.put("shared", "b/x", b"by a, for b")
    repository.publish("targets", "a", "b", "shared", bump=False)
    client = Client(server, tmp_path)
    assert client.download("a/x", "b/x") == 1
    assert client.contents() == [b"by a"]


def test_chain_of_roles_ends_somewhere(repository: TufRepository, server: TufServer, tmp_path: Path) -> None:
    """However many there are: the specification lets a client set a bound."""
    client = Client(server, tmp_path)
    delegate(repository, " ".join(f"{f'r{n - 1}' if n else 'targets'}>r{n}" for n in range(40)))
    assert client.download("missing") == 1
    assert visited(client) == [f"r{n}" for n in range(32)]


@pytest.mark.parametrize("name", ["file.txt", "path/to/a/file.txt"])
def test_target_is_fetched_once_and_only_if_asked_for(
    name: str, repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    client = Client(server, tmp_path)
    repository.put("targets", name, b"content")
    repository.publish("targets")
    assert client.refresh() == 0
    assert (client.contents(), client.asked("targets/")) == ([], [])
    assert client.download(name) == 0
    assert client.download(name) == 0
    assert (client.contents(), len(client.asked("targets/"))) == ([b"content"], 1)


def test_other_content_than_signed_is_never_stored(
    repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    client = Client(server, tmp_path)
    paths = [repository.put("targets", name, name.encode()) for name in ("one", "two")]
    repository.publish("targets")
    assert client.download("one") == 0
    repository.files |= {paths[0]: b"longer than what was signed", paths[1]: b"TWO"}
    client.download("one")
    assert client.contents() == [b"one"]
    assert client.download("two") == 1
    assert client.contents() == [b"one"]


def test_target_that_changes_stays_one_file_and_what_is_written_last_is_newest(
    repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    client = Client(server, tmp_path)
    expected: list[bytes] = []
    for number in range(11):
        changed = f"changed {number}".encode()
        path = repository.put("targets", "same", changed)
        repository.put("targets", f"new-{number}", f"new {number}".encode())
        repository.publish("targets")
        if number % 5:
            continue
        assert client.download("same") == 0
        expected = [content for content in expected if not content.startswith(b"changed")] + [changed]
        assert client.contents() == expected
        assert client.download(f"new-{number}") == 0
        expected.append(f"new {number}".encode())
        repository.files[path] = b"malicious"
        repository.publish("targets")
        client.download("same")
        assert client.contents() == expected


@pytest.mark.parametrize("kinds", [["sha256"], ["sha512"], ["sha256", "sha512"], ["no-such-hash"]], ids="+".join)
def test_target_is_checked_by_every_hash_that_was_signed(
    kinds: list[str], repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    known = kinds != ["no-such-hash"]
    info = TargetFile.from_data("file", b"content", kinds if known else ["sha512"])
    if not known:
        info.hashes = {kinds[0]: info.hashes["sha512"]}
    repository.signed("targets").targets["file"] = info
    repository.files |= {f"targets/{digest}.file": b"content" for digest in info.hashes.values()}
    repository.publish("targets")
    client = Client(server, tmp_path)
    assert client.download("file") == (0 if known else 1)
    assert client.contents() == ([b"content"] if known else [])
    assert len(client.asked("targets/")) == 1 or not known


@pytest.mark.parametrize(
    ("first_days", "then_days", "code"), [(-1, None, 1), (7, None, 1), (7, 21, 0)], ids=["at once", "on disk", "newer"]
)
def test_role_that_expired_is_not_used_until_there_is_newer(
    first_days: int, then_days: int | None, code: int,
    repository: TufRepository, server: TufServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Looked at again after 18 days, for another of its targets."""
    client = Client(server, tmp_path)
    repository.delegate("targets", "A", ["a/*"])
    repository.signed("A").expires = repository.now + timedelta(days=first_days)
    for name in ("a/first", "a/second"):
        repository.put("A", name, name.encode())
    repository.publish("targets", "A", bump=False)
    top = "root 1 timestamp 1 snapshot 1 targets 1"
    if first_days < 0:
        assert (client.refresh(), client.download("a/first")) == (0, 1)
        assert (client.contents(), client.trusted()) == ([], top)
        return
    assert client.download("a/first") == 0
    assert client.trusted() == f"{top} A 1"
    if then_days is not None:
        repository.signed("A").expires = repository.now + timedelta(days=then_days)
        repository.publish("A")
    set_clock(monkeypatch, 18)
    assert client.download("a/second") == code
    assert client.contents() == [b"a/first", b"a/second"][: 2 - code]


def test_repository_of_files_behind_any_web_server_will_do(repository: TufRepository, tmp_path: Path) -> None:
    """As tuf-on-ci writes it: ECDSA, fields of its own, a role whose second signature is still empty; HTTP/1.0."""
    repository.delegate("targets", "role", ["role/*", "role/*/*"], terminating=True)
    owner, other = CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ecdsa()
    for signer in (owner, other):
        signer.public_key.unrecognized_fields["x-keyowner"] = "@somebody"
        repository.signed("targets").add_key(signer.public_key, "role")
    repository.signers["role"] = [owner, other]
    repository.signed("role").unrecognized_fields["x-expiry-period"] = 7300
    repository.put("role", "role/artifact", b"content")
    repository.publish("targets", "role", bump=False)
    role = Metadata[Targets].from_bytes(repository.files["metadata/1.role.json"])
    role.signatures[other.public_key.keyid].signature = ""
    repository.files["metadata/1.role.json"] = role.to_bytes()
    repository.write_to(tmp_path / "served")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    web = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=web.serve_forever, args=(0.05,))
    thread.start()
    try:
        where = SimpleNamespace(repository=repository, url=f"http://127.0.0.1:{web.server_address[1]}", requests=[])
        client = Client(where, tmp_path)  # type: ignore[arg-type]
        assert (client.refresh(), client.download("role/artifact")) == (0, 0)
        assert client.contents() == [b"content"]
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
