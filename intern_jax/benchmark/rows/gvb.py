"""GV-B's 26 data sets as data (arXiv 2111.08687; OpenGVLab/gv-benchmark): task, metric, classes, splits, origin.

The benchmark's authors say neither how their 10% were drawn nor which frame of a video is read: what is ours is said
in data/gvb and protocol.py. Sizes are the data sets' own. Licences are as far as the authors state one; read their
terms before use.
"""

from intern_jax.benchmark.rows.row import GVB, Row

SIZE = 224


def _classes(
    name: str,
    title: str,
    num_classes: int,
    sizes: str,
    key: str,
    licence: str,
    origin: str,
    metric: str = "top1",
) -> Row:
    return Row(
        name=name,
        family="classification",
        source={"fn": GVB, "name": name},
        metric=metric,
        size=SIZE,
        view="crop",
        title=title,
        num_classes=num_classes,
        sizes=sizes,
        key=key,
        licence=licence,
        origin=origin,
    )


def _scenes(
    name: str,
    family: str,
    title: str,
    metric: str,
    num_classes: int,
    sizes: str,
    key: str,
    licence: str,
    origin: str,
) -> Row:
    return Row(
        name=name,
        family=family,
        source={"fn": GVB, "name": name},
        metric=metric,
        size=512,
        title=title,
        num_classes=num_classes,
        sizes=sizes,
        key=key,
        licence=licence,
        origin=origin,
    )


FILE = "the picture's file name"
RESEARCH = "non-commercial research"
NONE = "none stated"
MEAN = "mean_per_class"

# fmt: off
CLASSIFICATION = (
    _classes("cifar10", "Cifar10", 10, "50,000 / 10,000", "split and position in the batch files",
             NONE, "cs.toronto.edu/~kriz/cifar.html"),
    _classes("cifar100", "Cifar100", 100, "50,000 / 10,000", "split and position in the batch files",
             NONE, "cs.toronto.edu/~kriz/cifar.html"),
    _classes("food101", "Food", 101, "75,750 / 25,250", FILE,
             RESEARCH, "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"),
    _classes("pets", "Pets", 37, "3,680 / 3,669", FILE,
             "CC BY-SA 4.0", "robots.ox.ac.uk/~vgg/data/pets", MEAN),
    _classes("flowers102", "Flowers", 102, "1,020 / 6,149", FILE,
             NONE, "robots.ox.ac.uk/~vgg/data/flowers/102", MEAN),
    _classes("sun397", "Sun", 397, "19,850 / 19,850 (partition 1)", FILE,
             NONE, "vision.princeton.edu/projects/2010/SUN"),
    _classes("cars", "Cars", 196, "8,144 / 8,041", FILE,
             RESEARCH, "ai.stanford.edu/~jkrause/cars/car_dataset.html"),
    _classes("dtd", "Dtd", 47, "1,880 / 1,880", FILE,
             "research", "robots.ox.ac.uk/~vgg/data/dtd"),
    _classes("caltech101", "Caltech", 102, "3,060 / 6,084", FILE,
             "CC BY 4.0", "data.caltech.edu/records/mzrjq-6wc02", MEAN),
    _classes("aircraft", "Aircraft", 100, "3,334 / 3,333", FILE,
             RESEARCH, "robots.ox.ac.uk/~vgg/data/fgvc-aircraft", MEAN),
    _classes("svhn", "Svhn", 10, "73,257 / 26,032", "position in the file",
             RESEARCH, "ufldl.stanford.edu/housenumbers"),
    _classes("eurosat", "Eurosat", 10, "16,200 / 5,400", FILE,
             "MIT", "github.com/phelber/EuroSAT"),
    _classes("resisc45", "Resisc45", 45, "18,900 / 6,300", FILE,
             NONE, "gcheng-nwpu.github.io"),
    _classes("retinopathy", "Retinopathy", 5, "35,126 / 42,670", FILE,
             "competition rules", "kaggle.com/c/diabetic-retinopathy-detection"),
    _classes("fer2013", "Fer2013", 7, "28,709 / 3,589", "usage and position in the file",
             "competition rules",
             "kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge"),
    _classes("ucf101", "Ucf101", 101, "9,537 / 3,783 videos", "the video's name",
             NONE, "crcv.ucf.edu/data/UCF101.php"),
    _classes("gtsrb", "Gtsrb", 43, "39,209 / 12,630", FILE,
             "free for research", "benchmark.ini.rub.de"),
    _classes("pcam", "Pcam", 2, "262,144 / 32,768", "split and position in the file",
             "CC0", "github.com/basveeling/pcam"),
    _classes("imagenet", "Imagenet", 1000, "1,281,167 / 50,000", FILE,
             RESEARCH, "image-net.org"),
    _classes("kinetics700", "Kinetics700", 700, "about 536,000 / 34,000 videos", "the video's name",
             "CC BY 4.0 (annotations)", "github.com/cvdfoundation/kinetics-dataset"),
)
SCENES = (
    _scenes("voc07_12", "detection", "VOC07+12", "voc_ap", 20, "16,551 / 4,952", FILE,
            "terms of Flickr", "host.robots.ox.ac.uk/pascal/VOC"),
    _scenes("wider_face", "detection", "WIDER FACE", "wider_ap", 1, "12,880 / 3,226", FILE,
            RESEARCH, "shuoyang1213.me/WIDERFACE"),
    _scenes("citypersons", "detection", "CityPersons", "miss_rate", 1, "2,975 / 500", FILE,
            RESEARCH, "cityscapes-dataset.com and github.com/cvgroup-njust/CityPersons"),
    _scenes("voc2012_seg", "segmentation", "VOC2012", "miou", 21, "10,582 / 1,449", FILE,
            "terms of Flickr", "host.robots.ox.ac.uk/pascal/VOC and the SBD masks"),
    _scenes("kitti", "depth", "KITTI", "image_rmse", 0, "23,158 / 697 (652 with truth)", FILE,
            "CC BY-NC-SA 3.0", "cvlibs.net/datasets/kitti"),
    _scenes("nyuv2", "depth", "NYUv2", "image_rmse", 0, "24,231 or 47,584 / 654", FILE,
            NONE, "cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"),
)
# fmt: on
ROWS = CLASSIFICATION + SCENES
