"""`release init`, `add-product`, `rotate-keys`: who may sign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_inspect.cli.output import AsJson, emit
from cloud_inspect.cli.release_options import (
    Keys,
    PassphraseFile,
    Product,
    Staged,
    TrustedRoot,
    Url,
    next_publish,
    open_change,
    open_places,
    show_signed,
    signers_of,
    warn_of_exposed,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

KeysFolder = Annotated[
    Path, typer.Option("--keys", help="Folder for the new keys; not in the repository.", metavar="DIR")
]
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        help="How many keys must sign, of how many: 2, 2/3 (all offline roles) or root=2/3. May be repeated.",
        metavar="[ROLE=]N[/KEYS]",
    ),
]


def add(family: typer.Typer) -> None:
    for name, command in (("init", init), ("add-product", add_product), ("rotate-keys", rotate_keys)):
        family.command(name)(command)


def init(
    url: Url,
    keys: KeysFolder,
    product: Annotated[list[str], typer.Option(help="Product line, with keys of its own. May be repeated.")],
    threshold: Threshold = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Take this key (file, .pub or pkcs11: URI) instead of a new one.", metavar="ROLE=FILE|URI"),
    ] = None,
    passphrase_file: PassphraseFile = None,
    online_passphrase_file: Annotated[
        Path | None, typer.Option(help="The same for the online keys; else they are not encrypted.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Make keys and an empty repository; prints the root.json that devices must be given.

    Example: cloud-inspect release init /srv/models --keys ~/keys --product metal-plate --threshold root=2/3
    """
    store, _ = open_places(url, None, empty=True)
    from cloud_inspect.release import founding
    from cloud_inspect.release.keys import read_passphrase
    from cloud_inspect.release.layout import ROOT, TARGETS, product_role
    from cloud_inspect.release.repository import utc_now

    offline = [ROOT, TARGETS, *(product_role(one) for one in product)]
    given = _by_role(key or [])
    warn_of_exposed([one for references in given.values() for one in references])
    founded = founding.found(
        store,
        keys,
        product,
        utc_now(),
        thresholds=founding.parse_thresholds(threshold or [], offline),
        given=given,
        secrets=founding.Secrets(read_passphrase(passphrase_file), read_passphrase(online_passphrase_file)),
    )
    if json_:
        return emit({"root": str(founded.root_file), "keys": founded.keys})
    for role, references in founded.keys.items():
        typer.echo(f"{role}: {', '.join(references)}")
    return typer.echo(f"give this to every device: {founded.root_file}")


def add_product(
    url: Url,
    product: Product,
    keys: KeysFolder,
    key: Keys,
    threshold: Annotated[
        str, typer.Option(help="How many of its keys must sign, of how many.", metavar="N[/KEYS]")
    ] = "1",
    product_key: Annotated[
        list[str] | None, typer.Option(help="Take this key instead of a new one. May be repeated.", metavar="FILE|URI")
    ] = None,
    passphrase_file: PassphraseFile = None,
    root: TrustedRoot = None,
    staged: Staged = None,
    json_: AsJson = False,
) -> None:
    """Stage another product line: its keys, and the delegation to them, signed by the targets keys (--key).

    Example: cloud-inspect release add-product /srv/models --product ball-screw --keys ~/keys --key ~/keys/targets-1.pem
    """
    change = open_change(url, staged, root, key)
    from cloud_inspect.release import founding, roles
    from cloud_inspect.release.keys import kept_if_used, open_signer, read_passphrase, read_public, refuse_existing
    from cloud_inspect.release.layout import TARGETS, product_role

    role = product_role(founding.checked_product(product))
    needed, count = founding.parse_thresholds([threshold], [role])[role]
    passphrase = read_passphrase(passphrase_file)
    roles.refuse_product(change, product)
    roles.refuse_impossible(role, len(product_key or []) or count, needed)
    signers = signers_of(key, passphrase_file, lambda: change.wanted(TARGETS))
    warn_of_exposed(product_key or [])
    files = [] if product_key else founding.key_files(keys, role, count)
    staged_before = set(change.staging.roles())
    for file in files:
        refuse_existing(file, "--product-key ")
    with kept_if_used(files, lambda: set(change.staging.roles()) > staged_before):
        references = product_key or founding.make_keys(keys, role, count, passphrase)
        public: list[Key] = [read_public(one, passphrase) for one in references]
        own: list[Signer] = [open_signer(one, passphrase) for one in references if not one.endswith(".pub")]
        signed = roles.add_product(change, product, roles.RoleKeys(tuple(public), needed), signers, own)
    show_signed(signed, json_, next_publish(url, staged, key), list(map(str, files)))


def rotate_keys(
    url: Url,
    role: Annotated[str, typer.Option(help="root, targets, snapshot, timestamp or product-NAME.")],
    key: Keys,
    new: Annotated[list[Path] | None, typer.Option(help="Make a new key here and add it. May be repeated.")] = None,
    added: Annotated[
        list[str] | None,
        typer.Option("--add", help="Add this key: file, .pub or pkcs11: URI. May be repeated.", metavar="FILE|URI"),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="Take this key away: its name, or 6 digits of its id.", metavar="NAME|ID")
    ] = None,
    threshold: Annotated[int | None, typer.Option(min=1, help="How many must sign from now on.")] = None,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option(help="For --new and --add. Else as --key; online keys are not encrypted.")
    ] = None,
    root: TrustedRoot = None,
    staged: Staged = None,
    json_: AsJson = False,
) -> None:
    """Stage other keys for a role. Root, targets and online keys: --key are root's (and the role's, old and new);
    a product's: --key are the targets' and the product's new ones.

    Example: cloud-inspect release rotate-keys URL --role root --new root-4.pem --remove root-1 --key ~/keys
    """
    change = open_change(url, staged, root, key)
    from cloud_inspect.release import roles
    from cloud_inspect.release.keys import (
        kept_if_used,
        make_key,
        open_signers,
        read_passphrase,
        read_public,
        refuse_existing,
    )
    from cloud_inspect.release.layout import ONLINE_ROLES

    passphrase, files, given = read_passphrase(passphrase_file), new or [], added or []
    change.refuse_other_change(change.state(), *roles.signing_roles(role))
    staged_before = set(change.staging.roles())
    signers = signers_of(key, passphrase_file, lambda: change.wanted(*roles.signing_roles(role)))
    warn_of_exposed(given)
    secret = read_passphrase(new_passphrase_file) or (None if role in ONLINE_ROLES else passphrase)
    for path in files:
        refuse_existing(path, "--add ")
    with kept_if_used(files, lambda: set(change.staging.roles()) > staged_before):
        made: list[Key] = [make_key(path, secret) for path in files]
        taken: list[Key] = [read_public(one, secret) for one in given]
        own = open_signers([*map(str, files), *(one for one in given if not one.endswith(".pub"))], secret)
        exchange = roles.Exchange((*made, *taken), tuple(remove or ()), threshold)
        signed = roles.rotate(change, role, exchange, signers, own)
    online = [*map(str, files), *given] if role in ONLINE_ROLES else []
    show_signed(signed, json_, next_publish(url, staged, key, online), list(map(str, files)))


def _by_role(texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        role, equals, reference = text.partition("=")
        if not equals or not reference:
            raise typer.BadParameter(f"--key {text}: must be ROLE=FILE or ROLE=pkcs11:...")
        found.setdefault(role, []).append(reference)
    return found
