"""GV-B's detection, segmentation and depth rows: their readers, and how a user gets the data.

ROOT is the benchmark's data folder. Sources of detection rows also have `objects(index)`
(data/detection/objects.py), and those of depth rows have `evaluation_mask` and `depth_range` (depth.py).
"""

from intern_jax.data.detection import citypersons
from intern_jax.data.gvb.scenes import depth, voc, wider
from intern_jax.data.sources.reader import Reader

VOC_STEPS = """\
mkdir -p ROOT/voc && cd ROOT/voc
wget http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar
wget http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar
wget http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar
for archive in VOC*.tar; do tar xf $archive; done  # ROOT/voc/VOCdevkit/VOC2007 and VOC2012
or, with the extra [tf]: python -c "import tensorflow_datasets as tfds; [tfds.builder(f'voc/{year}', \
data_dir='ROOT/tfds').download_and_prepare(file_format='array_record') for year in (2007, 2012)]"  # in ROOT/tfds/voc"""

VOC_MASK_STEPS = """\
mkdir -p ROOT/voc && cd ROOT/voc
wget http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar
tar xf VOCtrainval_11-May-2012.tar  # ROOT/voc/VOCdevkit/VOC2012
wget http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz
tar xf benchmark.tgz  # SBD: ROOT/voc/benchmark_RELEASE/dataset/{cls,train.txt,val.txt}
or, instead of SBD's archive, its masks as PNGs in ROOT/voc/VOCdevkit/VOC2012/SegmentationClassAug"""

WIDER_STEPS = """\
get WIDER_train.zip, WIDER_val.zip and wider_face_split.zip from http://shuoyang1213.me/WIDERFACE/
wget http://shuoyang1213.me/WIDERFACE/support/eval_script/eval_tools.zip  # which faces are easy, medium, hard
mkdir -p ROOT/wider_face && for archive in *.zip; do unzip -q $archive -d ROOT/wider_face; done
# ROOT/wider_face/{WIDER_train/images,WIDER_val/images,wider_face_split,eval_tools/ground_truth}"""

CITYPERSONS_STEPS = """\
register at https://www.cityscapes-dataset.com and log in
get leftImg8bit_trainvaltest.zip and gtBbox_cityPersons_trainval.zip from its downloads
mkdir -p ROOT/citypersons
unzip -q leftImg8bit_trainvaltest.zip -d ROOT/citypersons  # leftImg8bit/{train,val}/CITY
unzip -q gtBbox_cityPersons_trainval.zip -d ROOT/citypersons  # gtBboxCityPersons/{train,val}/CITY"""

KITTI_STEPS = """\
get the drives' "synced+rectified data" zips from https://www.cvlibs.net/datasets/kitti/raw_data.php
get data_depth_annotated.zip from https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction
git clone https://github.com/cleinc/bts  # the Eigen split: train_test_inputs/eigen_{train,test}_files_with_gt.txt
mkdir -p ROOT/kitti && cp bts/train_test_inputs/eigen_*_files_with_gt.txt ROOT/kitti
for archive in 2011_*_sync.zip; do unzip -q $archive -d ROOT/kitti; done  # 2011_09_26/DRIVE/image_02/data
unzip -q data_depth_annotated.zip -d ROOT/kitti/data_depth_annotated  # {train,val}/DRIVE/proj_depth/groundtruth"""

NYU_STEPS = """\
git clone https://github.com/cleinc/bts && mkdir -p ROOT/nyuv2
cp bts/train_test_inputs/nyudepthv2_*_files_with_gt.txt ROOT/nyuv2
python bts/utils/download_from_gdrive.py 1AysroWpfISmm-yRFGBgFTrLy6FjQwvwP sync.zip
unzip -q sync.zip -d ROOT/nyuv2  # sync/SCENE/{rgb_00045.jpg,sync_depth_00045.png}
wget http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat
wget http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat
python bts/utils/extract_official_train_test_set_from_mat.py nyu_depth_v2_labeled.mat splits.mat \
ROOT/nyuv2/official_splits/  # needs h5py and OpenCV; official_splits/test/SCENE as in sync
or, with the extra [tf] and h5py: python -c "import tensorflow_datasets as tfds; tfds.builder('nyu_depth_v2', \
data_dir='ROOT/tfds').download_and_prepare(file_format='array_record')"  # in ROOT/tfds/nyu_depth_v2"""

READERS = {
    "voc07_12": Reader(voc.read_objects, VOC_STEPS),
    "wider_face": Reader(wider.read, WIDER_STEPS),
    "citypersons": Reader(citypersons.read, CITYPERSONS_STEPS),
    "voc2012_seg": Reader(voc.read_masks, VOC_MASK_STEPS),
    "kitti": Reader(depth.read_kitti, KITTI_STEPS),
    "nyuv2": Reader(depth.read_nyu, NYU_STEPS),
}
