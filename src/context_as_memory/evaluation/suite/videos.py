"""Videos of other systems, or our own output folders, scored by their returns: protocol `videos`."""

from functools import partial
from pathlib import Path

from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.foreign import CONTROL, MEASURES, conclude, empty_report, score_video
from context_as_memory.evaluation.protocols.control import has_opencv
from context_as_memory.evaluation.suite.result import Case, ClipStore, Measured, Report, fetched
from context_as_memory.evaluation.suite.write import Table, number, titles, write_reports
from context_as_memory.formats.cameras import read_cameras
from context_as_memory.formats.files import read_json, sha256_of
from context_as_memory.formats.importers import ImportedVideo, import_videos

MIRROR = "A path out and back: the way back against its mirror"
CONTROL_TITLES = ("rotation off, degrees", "share of turns made", "direction off, degrees", "pairs that tell")


def run_videos(videos: Path, config: EvaluateConfig) -> Report:
    """Score the returns in videos, see `foreign`. An output folder of `cam generate` is read as it is."""
    imported = own_output(videos) or import_videos(videos, config.cameras, config.truth, config.poses, config.hfov_deg)
    for video in imported:
        if video.track is not None:
            print(f"{video.name}: lens {video.track.lens}")
        for line in video.report()["notes"]:
            print(f"{video.name}: {line}")
    networks = "lpips" in fetched()
    report = empty_report(imported, networks, str(videos))
    stamp = report.settings | {"networks": list(report.networks), "opencv": has_opencv()}
    store = ClipStore(config.folder, stamp, config.shards)

    def measure(video: ImportedVideo) -> Measured:
        return Measured(score_video(video, networks))

    report.clips |= store.run([Case(video.name, video.name, partial(measure, video)) for video in imported])
    if not store.is_shard:
        conclude(report)
        _write(report, config.folder)
    return report


def own_output(folder: Path) -> list[ImportedVideo]:
    """The walk in an output folder of ours: video.mp4 with its poses and lens, the first frame given; else nothing."""
    video, poses, note = folder / "video.mp4", folder / "poses.npy", folder / "report.json"
    if not (video.is_file() and poses.is_file()):
        return []
    width = height = None
    if note.is_file():
        said = read_json(note)
        said = said if isinstance(said, dict) else {}
        for name, written in (said.get("sha256") or {}).items():
            if sha256_of(folder / Path(name).name) != written:
                raise UserError(
                    f"{folder / name} is not the file that was written; generate it again, or remove {note.name} to "
                    "score it as any other video"
                )
        world = said.get("world") or {}
        width, height = world.get("width"), world.get("height")
    cameras = read_cameras(folder, width=width, height=height)
    return [ImportedVideo(folder.resolve().name, (video,), cameras, recorded=1)]


def _write(report: Report, out: Path) -> None:
    columns = ["returns", *(f"return.{measure}" for measure in MEASURES)]
    headings = ["video", "returns", *titles(MEASURES)]
    if report.settings["truth"]:
        columns += [f"return_truth.{measure}" for measure in MEASURES]
        headings += ["PSNR to truth, dB", "SSIM to truth", "LPIPS to truth"]
    rows = [[name, *(number(clip.get(key)) for key in columns)] for name, clip in report.clips.items()]
    tables: list[Table] = [
        ("Returns against first visits", headings, rows, f"Videos with returns: {len(report.having(columns[1]))}.")
    ]
    for name, words in (
        ("closure", "The given picture against frames that come back to its camera"),
        ("mirror", MIRROR),
    ):
        having = [f"{name}.{measure}" for measure in MEASURES]
        rows = [[clip, *(number(report.clips[clip].get(key)) for key in having)] for clip in report.having(having[0])]
        if rows:
            tables.append((words, ["video", *titles(MEASURES)], rows, f"Protocol `{name}`."))
    rows = [[name, *(number(clip.get(key)) for key in CONTROL)] for name, clip in report.clips.items()]
    if report.having(CONTROL[-1]):
        tables.append(("Does it move as commanded?", ["video", *CONTROL_TITLES], rows, "Protocol `control`."))
    write_reports(report, out, f"Returns in {report.weights.get('name')}", tables)
