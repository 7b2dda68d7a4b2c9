# LVIS v0.5: 1,230 classes; each split has its own directory of images.
_base_ = 'lvis_v1.py'

dataset_type = 'LVISV05Dataset'
data_root = 'data/lvis_v0.5/'
num_classes = 1230
class_counts = data_root + 'annotations/lvis_v0.5_train.json'

train = dict(type=dataset_type, ann_file=class_counts, img_prefix=data_root + 'train2017/')
val = dict(type=dataset_type, ann_file=data_root + 'annotations/lvis_v0.5_val.json',
           img_prefix=data_root + 'val2017/')
data = dict(train=dict(dataset=train), val=val, test=val)
del train, val
