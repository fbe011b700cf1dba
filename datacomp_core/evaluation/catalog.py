"""The evaluation tasks as data: DataComp's forty (the reference's `tasklist.yml`) and the seven of `tiny`.

Class names and templates come with the data sets, never from here. A suite's version is raised by hand when a task, a
metric or a protocol of it changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

from datacomp_core.artifacts import OWN_SUITE
from datacomp_core.errors import unknown

IMAGENET = "ImageNet"
SHIFTS = "ImageNet dist. shifts"
VTAB = "VTAB"
RETRIEVAL = "Retrieval"

ACC1, ACC5, PER_CLASS = "acc1", "acc5", "mean_per_class_recall"

TAGS = {
    "misc/winogavil": ("retrieval",),
    **dict.fromkeys(
        ("vtab/caltech101", "vtab/cifar100", "vtab/dtd", "vtab/flowers", "vtab/pets", "sun397", "vtab/svhn"), ("vtab_natural",)
    ),
    **dict.fromkeys(("vtab/eurosat", "vtab/pcam", "vtab/resisc45"), ("vtab_specialized",)),
    **dict.fromkeys(
        ("vtab/clevr_count_all", "vtab/clevr_closest_object_distance", "vtab/kitti_closest_vehicle_distance"),
        ("vtab_structured",),
    ),
}


@dataclass(frozen=True)
class EvalTask:
    """One task. `metric` is its main metric; without one it is reported and not scored. `size` counts test samples.

    A `control` is measured and shown but belongs to no average: nothing in the pool teaches it, so that what moves it is noise.
    `chance` is the reference's random score, where it gives one. `near_chance` marks the five that the paper leaves out of
    its "clean" subset. `seconds` is the reference's own time for it. `at` names its folder where that is not derived. `code`
    is the identity of a protocol from outside this package.
    """

    key: str
    name: str
    size: int | None = None
    classes: int | None = None
    metric: str | None = ACC1
    group: str = ""
    protocol: str = "classification"
    chance: float | None = None
    seconds: int = 0
    near_chance: bool = False
    control: bool = False
    hub: str = ""
    at: str = ""
    code: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        """The reference's labels for it, which no score uses."""
        kind = self.key.partition("/")[0]
        if kind in ("retrieval", "wilds", "fairness"):
            return (kind,)
        return TAGS.get(self.key, ())

    @property
    def is_scored(self) -> bool:
        """Whether it counts in the average."""
        return self.metric is not None and not self.control

    @property
    def folder(self) -> str:
        """Its folder below the data directory: the hub repository's name without the owner."""
        if self.at:
            return self.at
        if self.hub:
            return self.hub.rpartition("/")[2]
        return f"wds_{self.key.removeprefix('fairness/').replace('/', '-')}_test"

    @property
    def repository(self) -> str:
        """The data set's repository on the hub; empty for `tiny` and for tasks of a user's own."""
        return "" if self.key.startswith("tiny/") or self.at else self.hub or f"djghosh/{self.folder}"


@dataclass(frozen=True)
class Suite:
    """Tasks that are averaged together. `groups` names the averages beside the overall one, in reading order."""

    name: str
    version: int
    tasks: tuple[EvalTask, ...]
    groups: tuple[str, ...]

    @property
    def scored(self) -> tuple[EvalTask, ...]:
        return tuple(task for task in self.tasks if task.is_scored)

    def task(self, key: str) -> EvalTask:
        """By key or display name. SpecError names the nearest."""
        found = next((task for task in self.tasks if key in (task.key, task.name)), None)
        if found is None:
            raise unknown("evaluation task", key, [task.key for task in self.tasks])
        return found


Task = EvalTask  # the table below is easier to read with the short name

# fmt: off
DATACOMP = (
    Task("vtab/caltech101", "Caltech-101", 6085, 102, PER_CLASS, VTAB, chance=0.009804, seconds=29),
    Task("cifar10", "CIFAR-10", 10000, 10, chance=0.1, seconds=18),
    Task("vtab/cifar100", "CIFAR-100", 10000, 100, group=VTAB, chance=0.01, seconds=18),
    Task("vtab/clevr_count_all", "CLEVR Counts", 15000, 8, group=VTAB, chance=0.125061, seconds=64, near_chance=True),
    Task("vtab/clevr_closest_object_distance", "CLEVR Distance", 15000, 6, group=VTAB, chance=0.19052, seconds=64,
         near_chance=True),
    Task("country211", "Country211", 21100, 211, chance=0.004739, seconds=66),
    Task("vtab/dtd", "Describable Textures", 1880, 47, group=VTAB, chance=0.021277, seconds=17),
    Task("vtab/eurosat", "EuroSAT", 5400, 10, group=VTAB, chance=0.101483, seconds=12),
    Task("fgvc_aircraft", "FGVC Aircraft", 3333, 100, PER_CLASS, chance=0.01, seconds=40),
    Task("food101", "Food-101", 25250, 101, chance=0.009901, seconds=101),
    Task("gtsrb", "GTSRB", 12630, 43, chance=0.037604, seconds=20),
    Task("imagenet1k", "ImageNet 1k", 50000, 1000, group=IMAGENET, chance=0.001, seconds=136),
    Task("imagenet_sketch", "ImageNet Sketch", 50889, 1000, group=SHIFTS, chance=0.001, seconds=249),
    Task("imagenetv2", "ImageNet v2", 10000, 1000, group=SHIFTS, chance=0.001, seconds=50),
    Task("imagenet-a", "ImageNet-A", 7500, 200, group=SHIFTS, chance=0.008056, seconds=47),
    Task("imagenet-o", "ImageNet-O", 2000, 200, group=SHIFTS, chance=0.006047, seconds=19),
    Task("imagenet-r", "ImageNet-R", 30000, 200, group=SHIFTS, chance=0.006163, seconds=148),
    Task("vtab/kitti_closest_vehicle_distance", "KITTI Vehicle Distance", 711, 4, group=VTAB, chance=0.295289, seconds=16,
         near_chance=True),
    Task("mnist", "MNIST", 10000, 10, chance=0.10035, seconds=20),
    Task("objectnet", "ObjectNet", 18574, 113, group=SHIFTS, chance=0.009481, seconds=317),
    Task("vtab/flowers", "Oxford Flowers-102", 6149, 102, PER_CLASS, VTAB, chance=0.009804, seconds=51),
    Task("vtab/pets", "Oxford-IIIT Pet", 3669, 37, PER_CLASS, VTAB, chance=0.027027, seconds=34),
    Task("voc2007", "Pascal VOC 2007", 14976, 20, chance=0.154038, seconds=41),  # cropped objects, one label each
    Task("vtab/pcam", "PatchCamelyon", 32768, 2, group=VTAB, chance=0.5, seconds=38, near_chance=True),
    Task("renderedsst2", "Rendered SST2", 1821, 2, chance=0.500001, seconds=10),
    Task("vtab/resisc45", "RESISC45", 6300, 45, group=VTAB, chance=0.022342, seconds=28),
    Task("cars", "Stanford Cars", 8041, 196, chance=0.00516, seconds=59),
    Task("stl10", "STL-10", 8000, 10, chance=0.1, seconds=20),
    Task("sun397", "SUN397", 108754, 397, group=VTAB, chance=0.004645, seconds=923),
    Task("vtab/svhn", "SVHN", 26032, 10, group=VTAB, chance=0.117897, seconds=39),
    Task("retrieval/flickr_1k_test_image_text_retrieval", "Flickr", 1000, None, "mean_recall@1", RETRIEVAL, "retrieval",
         seconds=20, hub="nlphuji/flickr_1k_test_image_text_retrieval"),
    Task("retrieval/mscoco_2014_5k_test_image_text_retrieval", "MSCOCO", 5000, None, "mean_recall@1", RETRIEVAL, "retrieval",
         seconds=23, hub="nlphuji/mscoco_2014_5k_test_image_text_retrieval"),
    Task("misc/winogavil", "WinoGAViL", 3563, None, "jaccard_score_10-12", RETRIEVAL, "winogavil",
         chance=0.205, seconds=1096, hub="nlphuji/winogavil"),
    Task("wilds/iwildcam", "iWildCam", 42791, 182, "F1-macro_all", "", "iwildcam", 0.143056, 251),
    Task("wilds/camelyon17", "Camelyon17", 85054, 2, ACC1, "", "camelyon17", 0.5, 212, near_chance=True),
    Task("wilds/fmow", "FMoW", 22108, 62, "acc_worst_region", "", "fmow", 0.027193, 88),
    Task("fairness/dollar_street", "Dollar Street", 3503, 58, "acc_top5_wg", "", "dollar_street", seconds=404),
    Task("fairness/geode", "GeoDE", 12488, 40, "acc_wg", "", "geode", seconds=354),
    Task("fairness/fairface", "FairFace", 10954, None, None, "", "faces", seconds=16),
    Task("fairness/utkface", "UTKFace", 23703, None, None, "", "faces", seconds=32),
)

TINY = (
    Task("tiny/objects", "Objects", metric=ACC5, group="Recognition"),
    Task("tiny/objects_3d", "Objects, 3D style", metric=ACC5, group="Shift"),
    Task("tiny/coarse", "Coarse classes", group="Recognition"),
    Task("tiny/flags", "Flags", metric=ACC5, group="Recognition"),
    Task("tiny/clipart", "Clip art", group="Recognition"),
    Task("tiny/digits", "Digits (negative control)", control=True),
    Task("tiny/retrieval", "Retrieval", metric="mean_recall@5", group="Retrieval", protocol="retrieval"),
)
# fmt: on

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("datacomp", 1, DATACOMP, (IMAGENET, SHIFTS, VTAB, RETRIEVAL)),
        Suite(OWN_SUITE, 1, (), ()),
        Suite("tiny", 2, TINY, ("Recognition", "Shift", "Retrieval")),
    )
}


def suite(name: str) -> Suite:
    """The suite of that name. SpecError names the known ones."""
    if name not in SUITES:
        raise unknown("evaluation suite", name, SUITES)
    return SUITES[name]
