"""The paper's statistics, tables and figures from prediction tensors, without TensorFlow."""
