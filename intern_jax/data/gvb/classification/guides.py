"""The steps by which a user gets each classification data set; ROOT is the benchmark's data folder."""

# A few pictures named .jpg are GIF or BMP files, which are not read here. This rewrites them once, in place.
REWRITE = (
    "python -c \"import pathlib, PIL.Image as I; [I.open(p).convert('RGB').save(p, 'JPEG', quality=95)"
    " for p in pathlib.Path('{}').rglob('*.jpg') if open(p, 'rb').read(2) in (b'GI', b'BM')]\""
)
MIDDLE_FRAME = (
    "n=$(ffprobe -v error -select_streams v:0 -count_packets -show_entries stream=nb_read_packets"
    ' -of csv=p=0 "$v"); ffmpeg -v error -i "$v" -vf "select=eq(n\\,$((n/2)))" -frames:v 1 -q:v 2'
)

FOLDERS: dict[str, str] = {
    "cifar10": """\
mkdir -p ROOT/cifar10 && cd ROOT/cifar10
curl -O https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz
tar xf cifar-10-binary.tar.gz    # cifar10/cifar-10-batches-bin/data_batch_1.bin ...""",
    "cifar100": """\
mkdir -p ROOT/cifar100 && cd ROOT/cifar100
curl -O https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz
tar xf cifar-100-binary.tar.gz    # cifar100/cifar-100-binary/train.bin ...""",
    "food101": """\
mkdir -p ROOT/food101 && cd ROOT/food101
curl -O http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz
tar xf food-101.tar.gz    # food101/food-101/{images,meta}""",
    "pets": f"""\
mkdir -p ROOT/pets && cd ROOT/pets
curl -LO https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz
curl -LO https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz
tar xf images.tar.gz && tar xf annotations.tar.gz    # pets/images, pets/annotations
{REWRITE.format("images")}""",
    "flowers102": """\
mkdir -p ROOT/flowers102 && cd ROOT/flowers102
for f in 102flowers.tgz imagelabels.mat setid.mat; do curl -O https://www.robots.ox.ac.uk/~vgg/data/flowers/102/$f; done
tar xf 102flowers.tgz    # flowers102/jpg""",
    "sun397": f"""\
get SUN397.tar.gz and Partitions.zip (https://vision.princeton.edu/projects/2010/SUN/; its links may be dead)
mkdir -p ROOT/sun397 && cd ROOT/sun397
tar xf SUN397.tar.gz && unzip Partitions.zip -d Partitions    # sun397/SUN397/a/abbey/, sun397/Partitions
{REWRITE.format("SUN397")}""",
    "cars": """\
get cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat
(https://ai.stanford.edu/~jkrause/cars/car_dataset.html; its links are dead: use a copy of these files)
mkdir -p ROOT/cars && cd ROOT/cars
for f in cars_train cars_test car_devkit; do tar xf $f.tgz; done    # cars/{cars_train,cars_test,devkit}""",
    "dtd": """\
mkdir -p ROOT/dtd && cd ROOT/dtd
curl -O https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz
tar xf dtd-r1.0.1.tar.gz    # dtd/dtd/{images,labels}""",
    "caltech101": """\
mkdir -p ROOT/caltech101 && cd ROOT/caltech101
curl -L -o caltech-101.zip 'https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1'
unzip caltech-101.zip && tar xf caltech-101/101_ObjectCategories.tar.gz    # caltech101/101_ObjectCategories""",
    "aircraft": """\
mkdir -p ROOT/aircraft && cd ROOT/aircraft
curl -O https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz
tar xf fgvc-aircraft-2013b.tar.gz    # aircraft/fgvc-aircraft-2013b/data/images""",
    "svhn": """\
mkdir -p ROOT/svhn && cd ROOT/svhn
for f in train test; do curl -O http://ufldl.stanford.edu/housenumbers/${f}_32x32.mat; done""",
    "eurosat": """\
get EuroSAT.zip, the RGB version (http://madm.dfki.de/files/sentinel/EuroSAT.zip; the host is often down)
mkdir -p ROOT/eurosat && cd ROOT/eurosat
unzip EuroSAT.zip    # eurosat/2750/AnnualCrop/AnnualCrop_1.jpg""",
    "resisc45": """\
get NWPU-RESISC45.rar (https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs)
mkdir -p ROOT/resisc45 && cd ROOT/resisc45
unrar x NWPU-RESISC45.rar    # resisc45/NWPU-RESISC45/airplane/airplane_001.jpg""",
    "retinopathy": """\
get train.zip.*, test.zip.*, trainLabels.csv.zip (https://www.kaggle.com/c/diabetic-retinopathy-detection/data)
and retinopathy_solution.csv, the test labels, from the competition's forum
mkdir -p ROOT/retinopathy && cd ROOT/retinopathy
cat train.zip.* > train.zip && cat test.zip.* > test.zip
unzip train.zip && unzip test.zip && unzip trainLabels.csv.zip    # retinopathy/train/10_left.jpeg, retinopathy/test""",
    "fer2013": """\
get fer2013.tar.gz or icml_face_data.csv
(https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge/data)
mkdir -p ROOT/fer2013 && cd ROOT/fer2013
tar xf fer2013.tar.gz    # fer2013/fer2013/fer2013.csv, or fer2013/icml_face_data.csv""",
    "ucf101": f"""\
mkdir -p ROOT/ucf101 && cd ROOT/ucf101
curl -O https://www.crcv.ucf.edu/data/UCF101/UCF101.rar
curl -O https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip
unrar x UCF101.rar && unzip UCF101TrainTestSplits-RecognitionTask.zip    # ucf101/ucfTrainTestlist
for v in UCF-101/*/*.avi; do
  f=frames/${{v#UCF-101/}}; mkdir -p "$(dirname "$f")"; {MIDDLE_FRAME} "${{f%.avi}}.jpg"
done""",
    "gtsrb": """\
mkdir -p ROOT/gtsrb && cd ROOT/gtsrb
for f in Training_Images Test_Images Test_GT; do
  curl -O https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/GTSRB_Final_$f.zip
  unzip GTSRB_Final_$f.zip
done    # gtsrb/GTSRB/Final_Training/Images/00000/GT-00000.csv, gtsrb/GT-final_test.csv""",
    "imagenet": """\
get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz
(https://image-net.org/download-images, after registering); the two .tar stay as they are
mkdir -p ROOT/imagenet && cd ROOT/imagenet
tar xf ILSVRC2012_devkit_t12.tar.gz    # imagenet/ILSVRC2012_devkit_t12/data/meta.mat""",
    "kinetics700": f"""\
get the Kinetics-700 (2020) videos and lists (https://github.com/cvdfoundation/kinetics-dataset) and lay
them out as ROOT/kinetics700/annotations/{{train,val}}.csv, ROOT/kinetics700/videos/{{train,val}}/ID_000010_000020.mp4
cd ROOT/kinetics700 && mkdir -p frames/train frames/val
for v in videos/*/*.mp4; do f=frames/${{v#videos/}}; {MIDDLE_FRAME} "${{f%.mp4}}.jpg"; done
name the videos that are lost in ROOT/kinetics700/missing.txt, one per line: ID_000010_000020""",
}

# The packages that TFDS needs to prepare a data set.
NEEDS = {
    "cars": " scipy",
    "flowers102": " scipy",
    "svhn": " scipy",
    "sun397": " opencv-python-headless",
    "retinopathy": " opencv-python-headless",
    "pcam": " h5py",
}
MANUAL = {
    "resisc45": "extract NWPU-RESISC45.rar into ROOT/tfds/downloads/manual first",
    "retinopathy": "put train/, test/ and trainLabels.csv into ROOT/tfds/downloads/manual first",
    "imagenet": "put ILSVRC2012_img_train.tar and _val.tar into ROOT/tfds/downloads/manual first",
}


def prepare(name: str, builder: str) -> str:
    """The command by which TFDS downloads and prepares a builder, once, with TensorFlow."""
    command = (
        f"pip install 'intern_jax[tf]'{NEEDS.get(name, '')}\n"
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{builder}', data_dir='ROOT/tfds')"
        ".download_and_prepare(file_format='array_record')\""
    )
    return f"{MANUAL[name]}\n{command}" if name in MANUAL else command
