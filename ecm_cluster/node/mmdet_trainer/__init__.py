"""mmdet's training behind the door: with inference, data and checks the only rooms that import mmcv and mmdet."""
