"""What a product's signers may want: release a package, move one on, revoke one, take some out, renew, add a signature.

1. A name and version stand for one set of bytes, for ever. Going to an older version must be said (`rollback`).
2. A rollout's sequence is the channel's last + 1; what was revoked stays revoked in every later rollout of the product.
3. Nothing here publishes: each change is staged, signed with the keys at hand, and says who still has to sign.
4. Of each role one change waits at a time; those of other roles stay as they are, with their signatures.

    change = Change(store, staged, now)
    signed = change.release("metal-plate", wish, package, signers)
    signed.missing                      # () when it may be published
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import IO

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import TargetFile, Targets

from cloud_inspect.errors import BadKey, BadRelease
from cloud_inspect.release.keys import name_of
from cloud_inspect.release.layout import (
    ONLINE_ROLES,
    PRODUCT,
    RETIRED,
    package_of,
    product_of,
    product_role,
    retired,
    target_file,
)
from cloud_inspect.release.packages import Package
from cloud_inspect.release.publish import expiring
from cloud_inspect.release.repository import Draft, State, load
from cloud_inspect.release.rollouts import (
    Wish,
    make_revoking,
    make_rollout,
    refuse_revoked,
    refuse_unfit,
    released,
)
from cloud_inspect.release.signing import Signed, added_packages, package_names, retired_by, role_lines
from cloud_inspect.release.staging import Staging, refuse_bad_change, rollouts
from cloud_inspect.release.store import QUIET, Progress, Store
from edge_wire.release import ReleasedModel, Rollout, channel_target, custom_of, file_target


class Change:
    """One signer at work on what is staged. Every method raises BadRelease, BadKey, StoreGone."""

    def __init__(self, store: Store, staged: Store, now: datetime, trusted_root: bytes | None = None) -> None:
        self._store, self._now = store, now
        self.staging = Staging(staged)
        self._trusted = trusted_root

    def state(self) -> State:
        return load(self._store, self._trusted, self.staging.root())

    def release(
        self,
        product: str,
        wish: Wish,
        package: Package | ReleasedModel,
        signers: Sequence[Signer],
        progress: Progress = QUIET,
    ) -> Signed:
        """Stage a rollout of a package, or of one that is released already.

        Staged just so already: adds the signature.
        """
        with self.staging.store.lock():
            state = self.state()
            targets = state.product(product)
            last = rollouts(product, targets, self._store)
            model = package.model if isinstance(package, Package) else package
            if self._staged_already(product, wish, model):
                return self._countersign(state, product_role(product), signers)
            self.refuse_other_change(state, product_role(product))
            refuse_unfit(product, wish, model, targets, last)
            rollout = make_rollout(product, wish, model, last, self._now)
            draft = self._draft_of(state, product_role(product), signers)
            files: dict[str, Opener] = {}
            with draft.edit_targets(product_role(product)) as edited:
                if isinstance(package, Package):
                    files |= _add_package(edited, product, package)
                files |= _add_rollout(edited, rollout)
            return self._stage(draft, product_role(product), files, progress)

    def revoke(
        self, product: str, model: ReleasedModel, wish: Wish, signers: Sequence[Signer], to: ReleasedModel | None = None
    ) -> Signed:
        """Every channel of the product gets a rollout that revokes the package, and names `to` where it ran."""
        with self.staging.store.lock():
            state = self.state()
            self.refuse_other_change(state, product_role(product))
            targets = state.product(product)
            last = rollouts(product, targets, self._store)
            if not last:
                raise BadRelease("unknown-channel", f"product {product}: no channel yet, so nobody was offered it")
            refuse_revoked(model, last, to)
            made = [make_revoking(one, model, wish, to, last, self._now) for one in last.values()]
            draft = self._draft_of(state, product_role(product), signers)
            files: dict[str, Opener] = {}
            with draft.edit_targets(product_role(product)) as edited:
                for rollout in made:
                    files |= _add_rollout(edited, rollout)
            return self._stage(draft, product_role(product), files)

    def retire(self, product: str, packages: Sequence[str], signers: Sequence[Signer]) -> Signed:
        """Take packages (NAME/VERSION) out for good. Staged just so already: adds the signature.

        Raises BadRelease: `unknown-model` where a channel names one of them.
        """
        role = product_role(product)
        with self.staging.store.lock():
            state = self.state()
            staged = self.draft(state, ())
            if packages and set(retired_by(staged, role)) == set(packages):
                return self._countersign(state, role, signers)
            self.refuse_other_change(state, role)
            draft = self._draft_of(state, role, signers)
            with draft.edit_targets(role) as edited:
                _take_out(edited, product, packages)
            return self._stage(draft, role, {})

    def renew(self, role: str, signers: Sequence[Signer]) -> Signed:
        """The same metadata with a new expiry: root, targets or a product, once a year or so."""
        with self.staging.store.lock():
            state = self.state()
            _refuse_unknown_role(state, role)
            self.refuse_other_change(state, role)
            draft = self._draft_of(state, role, signers)
            with draft.edit(role):
                pass
            return self._stage(draft, role, {})

    def countersign(self, role: str, signers: Sequence[Signer]) -> Signed:
        """Add signatures to what is staged; all of it is checked first."""
        with self.staging.store.lock():
            return self._countersign(self.state(), role, signers)

    def discard(self, role: str | None = None) -> list[str]:
        """Drop what is staged, or of it only this role's. The roles of which a change was staged."""
        with self.staging.store.lock():
            dropped = [one for one in self.staging.roles() if role in (None, one)]
            self.staging.clear(dropped)
        return dropped

    def staged_rollouts(self, product: str) -> tuple[Rollout, ...]:
        """What the staged change would tell the devices, for those who are to sign it."""
        draft = self.draft(self.state(), ())
        return self._rollouts_of(draft, product_role(product))[1]

    def wanted(self, *roles: str) -> dict[str, Key]:
        """By key id: who signs for these roles, as they are and as they are staged."""
        draft = self.draft(self.state(), ())
        return {keyid: key for role in roles for keyid, key in draft.keys(role).items()}

    def stage(self, draft: Draft, role: str) -> Signed:
        """For changes of roles, which are made elsewhere; the caller holds the lock."""
        return self._stage(draft, role, {})

    def draft(self, state: State, signers: Sequence[Signer]) -> Draft:
        """On top of what is staged; for changes of roles too."""
        draft = Draft(state, signers, self._now)
        self.staging.overlay(draft)
        return draft

    def _countersign(self, state: State, role: str, signers: Sequence[Signer]) -> Signed:
        draft = self.draft(state, signers)
        if role not in draft.changed:
            staged = ", ".join(draft.changed) or "nothing"
            raise BadRelease("nothing-staged", f"{self.staging.store.url}: no change of {role}; staged: {staged}")
        refuse_bad_change(draft, self.staging.store, self._store)
        _refuse_strangers(draft, role, signers)
        names = draft.sign(role)
        self.staging.write(role, draft.changed[role])
        return self._signed(draft, role, names)

    def _rollouts_of(self, draft: Draft, role: str) -> tuple[dict[str, Rollout], tuple[Rollout, ...]]:
        """By channel what they say until now, and those that the change brings."""
        if not role.startswith(PRODUCT) or role not in draft.changed:
            return {}, ()
        product, stores = product_of(role), (self.staging.store, self._store)
        before = draft.base.product(product) if product in draft.base.products else Targets()
        last = rollouts(product, before, self._store)
        now = rollouts(product, draft.state.product(product), *stores)
        return last, tuple(one for channel, one in now.items() if one != last.get(channel))

    def _signed(self, draft: Draft, role: str, keyids: Sequence[str]) -> Signed:
        keys, metadata = draft.keys(role), draft.changed[role].signed
        last, made = self._rollouts_of(draft, role)
        product = product_of(role) if role.startswith(PRODUCT) else None
        return Signed(
            role,
            metadata.version,
            f"{metadata.expires:%Y-%m-%d}",
            signed_by=tuple(name_of(keys[one]) for one in keyids),
            missing=tuple(dict.fromkeys(line for one in draft.changed for line in draft.missing(one))),
            rollouts=made,
            retired=retired_by(draft, role),
            before=last,
            names=package_names(draft.state.product(product)) if product else {},
            added=tuple(added_packages(draft, product)) if product else (),
            roles=tuple(role_lines(draft)),
            warnings=tuple(expiring(draft.state, self._now)),
        )

    def _staged_already(self, product: str, wish: Wish, model: ReleasedModel) -> bool:
        return any(
            (one.channel, one.model, one.audience, one.shadow, one.trial, one.action == "rollback")
            == (wish.channel, model, wish.audience, wish.shadow, wish.trial, wish.rollback)
            for one in self.staged_rollouts(product)
        )

    def refuse_other_change(self, state: State, *roles: str) -> None:
        """Of these roles. Raises BadRelease (`staged`)."""
        waiting = [one for one in self.draft(state, ()).changed if one in roles]
        if waiting:
            raise BadRelease(
                "staged",
                f"{self.staging.store.url}: a change of {', '.join(waiting)} waits there: "
                f"publish it, or drop it by `sign --role {waiting[0]} --discard`",
            )

    def _draft_of(self, state: State, role: str, signers: Sequence[Signer]) -> Draft:
        draft = self.draft(state, signers)
        _refuse_strangers(draft, role, signers)
        return draft

    def _stage(
        self,
        draft: Draft,
        role: str,
        files: dict[str, Opener],
        progress: Progress = QUIET,
    ) -> Signed:
        """Files first, metadata last, so that what is staged is whole."""
        staged = self.staging.store
        if set(draft.changed) == set(draft.edited):
            self.staging.clear()
        if files:
            targets = draft.state.product(product_of(role)).targets
            progress.expect(sum(targets[path].length for path in files))
            for path, open_file in files.items():
                info = targets[path]
                with open_file() as source:
                    staged.copy_in(target_file(info), source, info.length, info.hashes["sha256"], progress)
        refuse_bad_change(draft, staged, self._store)
        for changed in draft.edited:
            self.staging.write(changed, draft.changed[changed])
        keys = draft.keys(role)
        return self._signed(draft, role, [one for one in draft.changed[role].signatures if one in keys])


Opener = Callable[[], AbstractContextManager[IO[bytes]]]


def _refuse_unknown_role(state: State, role: str) -> None:
    allowed = [one for one in state.roles if one not in ONLINE_ROLES]
    if role not in allowed:
        raise BadRelease("unknown-role", f"role {role}: allowed: {', '.join(allowed)}")


def _refuse_strangers(draft: Draft, role: str, signers: Sequence[Signer]) -> None:
    wanted = draft.keys(role)
    for signer in signers:
        if signer.public_key.keyid not in wanted:
            names = ", ".join(sorted(name_of(key) for key in wanted.values()))
            raise BadKey(
                "key-not-of-role", f"{name_of(signer.public_key)}: does not sign for {role}; its keys: {names}"
            )


def _add_package(targets: Targets, product: str, package: Package) -> dict[str, Opener]:
    """Every file of the package as a target; who opens those that are new."""
    openers: dict[str, Opener] = {}
    for file in package.files:
        path = file_target(product, package.model.name, package.model.version, file.name)
        if path not in targets.targets:
            openers[path] = file.open
        targets.targets[path] = TargetFile(file.length, {"sha256": file.sha256}, path)
    return openers


def _take_out(targets: Targets, product: str, packages: Sequence[str]) -> None:
    digests = {}
    for package in packages:
        name, _, version = package.partition("/")
        model = released(product, targets, name, version)
        digests[package] = model.digest.removeprefix("sha256:")
    targets.targets = {path: info for path, info in targets.targets.items() if package_of(path) not in digests}
    targets.unrecognized_fields[RETIRED] = dict(sorted({**retired(targets), **digests}.items()))


def _add_rollout(targets: Targets, rollout: Rollout) -> dict[str, Opener]:
    content = (rollout.model_dump_json(indent=2) + "\n").encode()
    path = channel_target(rollout.product, rollout.channel)
    targets.targets[path] = TargetFile.from_data(path, content, ["sha256"])
    if rollout.revocations:
        targets.targets[path].unrecognized_fields["custom"] = custom_of(rollout.revocations)
    return {path: lambda: io.BytesIO(content)}
