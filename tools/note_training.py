"""The first thing that a kernel of the runner does: from now on, note how far a training is.

A lesson calls plain `model.fit`. Once it has imported Keras, the list of callbacks that every `fit` has also writes
network, epoch and time left into a small file, which `tools/waiting.py` reads. It computes nothing that a lesson
uses, adds no callback, imports nothing large, and stays silent where the file cannot be written. Only the runner's
kernels run it, so JupyterLab knows nothing of it.
"""


def _note_training() -> None:
    import functools
    import json
    import os
    import sys
    import time
    from contextlib import suppress

    path, now = os.path.join(os.environ["XRAYS_RUN"], ".training.json"), {"fits": 0, "noted": 0.0}

    def note(callbacks, event, count):
        """Keep in mind where `fit` is, and write it down twice a second."""
        steps, clock = callbacks.params.get("steps"), time.monotonic()
        if event == "on_train_begin":
            names = [getattr(callback, "name", "") for callback in callbacks.callbacks]
            now.update(fits=now["fits"] + 1, first=None, epoch=0, at=0.0)
            now["network"] = next((name for name in names if name), callbacks.model.name)
            now["early"] = any(hasattr(callback, "stopped_epoch") for callback in callbacks.callbacks)
        elif event == "on_epoch_begin":
            now.update(epoch=count, at=float(count))
        elif event == "on_train_batch_end" and steps:
            now["at"] = now["epoch"] + (count + 1) / steps
        if event == "on_train_batch_end":
            now["first"] = now["first"] or (clock, now["at"])  # after it, everything is compiled
            if clock - now["noted"] < 0.5:
                return
        epochs, left = callbacks.params["epochs"], None
        if now["first"] and now["at"] > now["first"][1]:
            left = (clock - now["first"][0]) * (epochs - now["at"]) / (now["at"] - now["first"][1])
        said = {"network": now["network"], "fits": now["fits"], "epoch": now["epoch"] + 1, "epochs": epochs}
        said |= {"left": left, "early": now["early"], "time": time.time()}
        now["noted"] = clock
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps({} if event == "on_train_end" else said))

    def watch(event, original):
        @functools.wraps(original)
        def method(self, *args, **kwargs):
            answer = original(self, *args, **kwargs)
            with suppress(Exception):  # a full disk, or another Keras: the lesson goes on
                note(self, event, args[0] if args and isinstance(args[0], int) else 0)
            return answer

        return method

    def before_cell(*_):
        now["fits"] = 0
        with suppress(Exception):
            listed = sys.modules["keras"].callbacks.CallbackList
            if not hasattr(listed, "noted"):
                listed.noted = True
                for event in ("on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_train_end"):
                    setattr(listed, event, watch(event, getattr(listed, event)))

    get_ipython().events.register("pre_run_cell", before_cell)  # noqa: F821


_note_training()
del _note_training
