"""``export.onnx``: decoder graphs for onnxruntime-genai."""
