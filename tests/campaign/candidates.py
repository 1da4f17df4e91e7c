"""Bad candidates and good retrains, signed and released as any other, through all stages of a running appliance.

    python -m tests.campaign.candidates --good RETRAINS --photos metal_tag/data.yaml --work DIR     # the long form
    python -m tests.campaign.candidates --bad finds-nothing,nan --shadow-parts 30 --trial-parts 30  # the short one
    python -m tests.campaign.candidates --without probe,shadow ...          # as if those had been fooled

One appliance (the simulated line, unpaced; shipped model, outbox, signed repository over HTTP) takes one candidate
after the other: FETCH, VERIFY, PROBE in its child process, SHADOW, TRIAL. What was kept is taken back by hand.

1. Bad ones (`bad_models`, and `--others`) come with golden pictures made to fit them: as if whoever released them had
   been fooled. Good ones are real retrains: `--good DIR`, each folder with model.onnx and model-int8.onnx
   (`retrains.sh` makes them); without, there is one: the shipped network with a retrained head.
2. Whether one is bad is not taken from its name: `candidate_scores` measures it on labelled pictures. What turns out
   not to be worse is listed as harmless and counts as nothing; so does a retrain that is in fact worse.
3. A campaign fails if one that is bad is kept, or judged longer than 60 s and 1,000 frames; and if one that is not
   worse is refused; and if there was neither a bad one nor a good one: nothing was tried then.

Results are added to WORK/results.jsonl; what stands there is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx

from cloud_inspect.learning.datasets import load_dataset
from edge_inspect.cli.log import configure_log
from edge_inspect.inference.package import find_model
from edge_inspect.update.examine import Probed
from tests.campaign.bad_models import DIM, Seed, seeds
from tests.campaign.candidate_line import MODEL, Came, Candidate, Line, LineDown
from tests.campaign.candidate_packages import release_folder
from tests.campaign.candidate_scores import LINE, PHOTOS, Facts, Scores, dimmed
from tests.campaign.model_weights import retrained_head

FILES = {"fp32": "model.onnx", "int8": "model-int8.onnx"}
MOST_S, MOST_FRAMES = 60.0, 1000


@dataclass
class Campaign:
    options: argparse.Namespace
    work: Path
    unknown: Counter[str] = field(default_factory=Counter)

    def run(self) -> dict[str, Any]:
        options = self.options
        candidates = [*self._bad(), *self._good()]
        scores = self._scores()
        facts: dict[str, Facts] = {}
        for one in candidates if scores else ():
            fact = scores[one.precision].of(one.file, one.classes)
            if one.hidden:
                fact = replace(scores["dim"].of(one.file, one.classes), gate=fact.gate)
            facts[one.name] = fact
            _show(f"{one.name}: {fact.verdict} {fact.worse}")
        if options.only_scores:
            return {"failures": 0}
        done = {came.name: came for came in self._results()}
        todo = [one for one in candidates if one.name not in done]
        with ExitStack() as stack:
            for what in filter(None, options.without.split(",")):
                stack.enter_context(_fooled(what))
            for precision in sorted({one.precision for one in todo}):
                self._try([one for one in todo if one.precision == precision], precision, done)
        came = [done[one.name] for one in candidates if one.name in done]
        self._show_table(came, facts)
        return self._verdict(came, facts)

    # --- who is tried ---------------------------------------------------------------------------------------------

    def _bad(self) -> list[Candidate]:
        wanted = self.options.bad.split(",")
        chosen = [seed for seed in seeds() if "all" in wanted or seed.name in wanted]
        made = [Candidate(seed.name, self._make(seed), seed.precision, False, seed.classes, seed.hidden, seed.hidden)
                for seed in chosen]  # fmt: skip
        others = sorted(Path(self.options.others).glob("*.onnx")) if self.options.others else []
        return made + [Candidate(path.stem, path, "fp32", False) for path in others]

    def _make(self, seed: Seed) -> Path:
        path = self.work / "bad" / f"{seed.name}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            model = onnx.load(find_model(MODEL) / FILES[seed.precision])
            seed.change(model)
            path.write_bytes(model.SerializeToString())
        return path

    def _good(self) -> list[Candidate]:
        """Retrains; with `--dims` every other one under a lamp that grows dim when its trial begins."""
        if not self.options.good:
            return [Candidate("retrained-head", self._make(Seed("retrained-head", retrained_head)), "fp32", True)]
        found = []
        for number, folder in enumerate(sorted(Path(self.options.good).iterdir(), key=_by_number)):
            files = {precision: folder / FILES[precision] for precision in self.options.good_precision.split(",")}
            precision = next((name for name, file in files.items() if file.is_file()), None)
            if precision is not None:
                dims = self.options.dims and number % 2 == 1
                found.append(Candidate(f"{folder.name}-{precision}", files[precision], precision, True, dims=dims))
        return found

    def _scores(self) -> dict[str, Scores]:
        """By precision: a candidate is compared with the file that judges beside it; `dim`: under a dim lamp."""
        options = self.options
        if not options.line:
            return {}
        line = load_dataset(Path(options.line)).val[:: options.every]
        photos = load_dataset(Path(options.photos)).val if options.photos else line[:2]
        folder, sets = self.work / "scores", {LINE: line, PHOTOS: photos}
        scores = {precision: Scores(find_model(MODEL), file, sets, folder) for precision, file in FILES.items()}
        dim = {**sets, LINE: dimmed(line, DIM, self.work / "dim")}
        return {**scores, "dim": Scores(find_model(MODEL), FILES["fp32"], dim, folder)}

    # --- trying ---------------------------------------------------------------------------------------------------

    def _try(self, todo: Sequence[Candidate], precision: str, done: dict[str, Came]) -> None:
        waiting = list(todo)
        while waiting:
            with tempfile.TemporaryDirectory(prefix="candidates-", dir=self.work) as place:
                with Line(Path(place), precision, self.options) as line:
                    try:
                        while waiting:
                            one = waiting[0]
                            done[one.name] = self._try_one(line, one, Path(place), len(done))
                            waiting.pop(0)
                    except LineDown as err:
                        one = waiting.pop(0)
                        done[one.name] = Came(one.name, one.is_good, "line-down", "line-down", str(err)[:300])
                    self.unknown.update(line.ear.unknown)
            self._keep(done[one.name])

    def _try_one(self, line: Line, one: Candidate, place: Path, number: int) -> Came:
        version = f"1.1.{number}"
        package = release_folder(find_model(MODEL), place / version, one.file, one.precision, one.classes, version)
        came = line.try_out(one, package)
        shutil.rmtree(package)
        if came.stage != "line-down":
            self._keep(came)
        return came

    def _keep(self, came: Came) -> None:
        _show(json.dumps(asdict(came)))
        known = {one.name for one in self._results()}
        if came.name not in known:
            with self._file.open("a") as stream:
                stream.write(json.dumps(asdict(came)) + "\n")

    def _results(self) -> list[Came]:
        if not self._file.exists():
            return []
        return [Came(**json.loads(row)) for row in self._file.read_text().splitlines()]

    @property
    def _file(self) -> Path:
        suffix = "".join(f"-without-{what}" for what in filter(None, self.options.without.split(",")))
        return self.work / f"results{suffix}.jsonl"

    # --- the end --------------------------------------------------------------------------------------------------

    def _verdict(self, came: Sequence[Came], facts: dict[str, Facts]) -> dict[str, Any]:
        bad, good = [], []
        unlike: dict[str, list[str]] = {"harmless": [], "mild": [], "elsewhere": [], "worse_retrains": []}
        for one in came:
            truth = facts[one.name].verdict if one.name in facts else "harmless" if one.is_good else "bad"
            if one.is_good and truth in ("harmless", "mild"):
                good.append(one)
            elif not one.is_good and truth == "bad":
                bad.append(one)
            else:
                unlike["worse_retrains" if one.is_good else truth].append(f"{one.name}: {_outcome(one)}")
        kept = [one.name for one in bad if not one.stage]
        slow = [one.name for one in bad if one.seconds > MOST_S and one.frames > MOST_FRAMES]
        refused = [f"{one.name}: {_outcome(one)}" for one in good if one.stage]
        failed = [*kept, *slow, *(one.name for one in came if one.stage == "line-down")]
        tried = [one for one in bad if one.parts]
        fooled = [one.name for one in bad if one.name in facts and not facts[one.name].gate]
        return {
            "bad": len(bad), "caught_by_stage": dict(Counter(one.stage for one in bad if one.stage)),
            "caught_by_code": dict(Counter(one.code for one in bad if one.stage)), "kept_bad": kept,
            "activated": len(tried), "worst_to_rollback": {
                "seconds": max((one.seconds for one in tried), default=0.0),
                "frames": max((one.frames for one in tried), default=0),
                "parts": max((one.parts for one in tried), default=0),
            },
            "too_late": slow, "good": len(good), "refused_good": refused, **unlike,
            "gate_of_the_cloud": {"asked": sum(one.name in facts for one in bad), "would_pass": fooled},
            "unknown_parts": dict(self.unknown), "without": self.options.without,
            "bounds": {"bad": _bound(len(bad)), "good": _bound(len(good))},
            "nobody_tried": int(not bad and not good),
            "failures": len(set(failed)) + len(refused) + int(not bad and not good),
        }  # fmt: skip

    def _show_table(self, came: Sequence[Came], facts: dict[str, Facts]) -> None:
        _show(
            "| candidate | measured | escapes, overkill (line) | mAP50 line, photos | cloud's gate | device | on line |"
        )
        _show("|---|---|---|---|---|---|---|")
        for one in came:
            fact = facts.get(one.name)
            if fact is None:
                _show(f"| {one.name} | | | | | {_outcome(one)} | {_on_line(one)} |")
                continue
            line = fact.line
            rates = f"{line.escapes} of {line.defective}, {line.overkill} of {line.good}"
            scores = f"{line.map50:.2f}, {fact.photos.map50:.2f}"
            said = f"{fact.verdict}: {', '.join(fact.worse)}" if fact.worse else fact.verdict
            gate = fact.gate or "passes"
            _show(f"| {one.name} | {said} | {rates} | {scores} | {gate} | {_outcome(one)} | {_on_line(one)} |")


def _outcome(one: Came) -> str:
    return f"{one.stage} `{one.code}`" if one.stage else "kept"


def _on_line(one: Came) -> str:
    return f"{one.frames} frames, {one.seconds:g} s" if one.stage and one.frames else ""


def _bound(tried: int) -> float | None:
    """None of so many: with 95 % fewer than this share."""
    return round(3 / tried, 4) if tried else None


def _by_number(folder: Path) -> tuple[int, str]:
    digits = "".join(letter for letter in folder.name if letter.isdigit())
    return int(digits or 0), folder.name


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fooled(stage: str) -> AbstractContextManager[Any]:
    """That stage finds nothing wrong, whatever it is shown."""
    if stage == "probe":
        nothing = Probed("cpu", (), 0.0, 0.0, 0.0, 0.0, 0, 0, "not asked")
        return patch("edge_inspect.updates.probe", lambda *arguments, **options: nothing)
    if stage == "shadow":
        return patch("edge_inspect.update.acts.shadow_verdict", lambda report, limits: "pass")
    raise SystemExit(f"--without {stage}: probe, shadow or both, with a comma")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bad", default="all", help="names of seeds, with commas; all, or none")
    parser.add_argument("--others", help="folder of other people's *.onnx: early checkpoints, models of another thing")
    parser.add_argument("--good", help="folder of folders with model.onnx, model-int8.onnx: see retrains.sh")
    parser.add_argument("--good-precision", default="int8,fp32", help="which of a retrain's files is taken, best first")
    parser.add_argument("--dims", action="store_true", help="under every other retrain's trial the lamp grows dim")
    parser.add_argument("--line", help="data.yaml of pictures of the line: sim export --val-share 0.9")
    parser.add_argument("--every", type=int, default=2, help="of those pictures, every how many-th is judged")
    parser.add_argument("--photos", help="data.yaml of real photos")
    parser.add_argument("--only-scores", action="store_true", help="measure, and try nobody")
    parser.add_argument("--work", type=Path, help="where files, scores and results are kept; else nowhere")
    parser.add_argument("--without", default="", help="probe, shadow or both: those stages pass everything")
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--ng-share", type=float, default=0.3)
    parser.add_argument("--px-per-frame", type=int, default=80)
    parser.add_argument("--shadow-parts", type=int, default=200)
    parser.add_argument("--trial-parts", type=int, default=500)
    parser.add_argument("--trial-least-s", type=int, default=60)
    parser.add_argument("--share", type=float, default=1.0, help="of the time, that may be computed beside")
    parser.add_argument("--probe-s", type=int, default=60)
    options = parser.parse_args()
    configure_log("error", "text")
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="candidates-")))
        work.mkdir(parents=True, exist_ok=True)
        result = Campaign(options, work).run()
    print(json.dumps(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
