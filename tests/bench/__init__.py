"""The benchmarks' own tools measure what they say."""
