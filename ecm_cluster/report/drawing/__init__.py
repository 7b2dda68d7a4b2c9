"""What a chart is made of: axes, curves with the points that can be seen, hover texts."""
