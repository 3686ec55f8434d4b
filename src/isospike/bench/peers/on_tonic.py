"""Frames of tonic 1.7.0."""

import numpy as np
from serve import Frames, Job, Task, Tensors, serve


def build(job: Job, tensors: Tensors) -> Task:
    """Cut T parts with as many events."""
    from tonic.transforms import ToFrame

    fields = {"x": np.int16, "y": np.int16, "t": np.int64, "p": np.int8}
    events = np.empty(len(tensors["t"]), list(fields.items()))
    for name in fields:
        events[name] = tensors[name].numpy()
    to_frames = ToFrame(sensor_size=(job["size"], job["size"], 2), n_event_bins=job["T"])
    return Frames(lambda: to_frames(events))


if __name__ == "__main__":
    from importlib.metadata import version

    serve(build, {"tonic": version("tonic")})
