"""A program in place of the worker that adapts models: quick, and as slow as a test wants it to be.

`write_program(path)` writes it. It takes `u2ad adapt`'s arguments, reports as that does, goes on from where it was
stopped, and in the end writes a model package: the source's, with weights that differ a little.

What a test may ask of it is in the environment: `STAND_IN_EPOCH_S` (seconds for an epoch), `STAND_IN_ERROR` (end with
this error instead), `STAND_IN_DEAF` (never stop when asked to), `STAND_IN_LOG` (a file that gets its arguments and the
images' names and sizes, as a JSON line).
"""

import sys
from pathlib import Path

PROGRAM = """#!{python}
import json, os, select, shutil, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})

arguments = sys.argv[1:]
adapt, flags = arguments[arguments.index("adapt") + 1:], []
images = []
while adapt and not adapt[0].startswith("--"):
    images.append(Path(adapt.pop(0)))
if "--few" in adapt:
    adapt.remove("--few"); flags.append("--few")
cut = adapt.index("--progress")
options = dict(zip(adapt[:cut:2], adapt[1:cut:2]))
out, epochs = Path(options["--out"]), int(options["--epochs"])
training = out / "training"

def say(**values):
    print(json.dumps(values), flush=True)

if "STAND_IN_DEAF" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

def stopped():
    if "STAND_IN_DEAF" in os.environ:
        return time.sleep(0.02)
    ready, _, _ = select.select([0], [], [], float(os.environ.get("STAND_IN_EPOCH_S", 0.01)))
    return bool(ready) and not os.read(0, 1)

if log := os.environ.get("STAND_IN_LOG"):
    files = [[p.name, p.stat().st_size] for p in images]
    Path(log).open("a").write(json.dumps(dict(options, images=files, flags=flags)) + "\\n")
say(pid=os.getpid())
if error := os.environ.get("STAND_IN_ERROR"):
    say(error=error, exit_code=3); sys.exit(3)
say(stage="Reading images", done=1, total=1, seconds_left=None)
training.mkdir(parents=True, exist_ok=True)
state = training / "state.json"
done = json.loads(state.read_text())["epoch"] if state.exists() else 0

def write(number):
    header = "epoch,stage,rate,loss,mse,edge,adapted_mse,adapted_psnr,adapted_ssim,adapted_variance"
    lines = [header, "0,,,,,,0.02,20,0.8,1"]
    for k in range(1, number + 1):
        watched = f"{{0.02 - 0.001 * k}},20.5,0.85,0.9" if k % 2 == 0 else ",,,"
        lines.append(f"{{k}},EU,0.001,{{1 / k}},{{0.5 / k}},{{0.1 / k}},{{watched}}")
    (training / "curves.csv").write_text("\\n".join(lines) + "\\n")
    if number:
        recipe = dict(config=dict(epochs=epochs), source="x")
        (training / "state.tmp").write_text(json.dumps(dict(epoch=number, recipe=recipe, tensors="none")))
        os.replace(training / "state.tmp", state)

write(done)
while done < epochs:
    if stopped():
        say(error="Cancelled.", exit_code=130); sys.exit(130)
    done += 1
    write(done)
    stage, share = ("EU", done / epochs / 0.75) if done < 0.75 * epochs else ("AU", 4 * (done / epochs - 0.75))
    say(stage=f"Adapting, {{stage}} stage", done=round(1000 * share), total=1000, seconds_left=1.0)

from safetensors.numpy import load_file, save_file
from U2ADLib.files import file_sha256
from U2ADLib.package import find_model, read_card, weights_sha256

source = find_model(options["--model"])
card = read_card(source)
tensors = load_file(source / "weights.safetensors")
name = sorted(tensors)[0]
tensors[name] = tensors[name] * tensors[name].dtype.type(1.01)
save_file(tensors, out / "weights.safetensors")
if card.get("discriminators"):
    say(stage="Adapting, score", done=1, total=1, seconds_left=0.0)
    shutil.copy(source / "discriminators.safetensors", out)
quality = dict(mse=0.02, psnr=20.0, ssim=0.8, variance=1.0)
after = dict(quality, ssim=0.85)
lineage = dict(name=card["name"], sha256=weights_sha256(card), method="pretraining")
training_entry = dict(method="adaptation", images=len(images), people=3, slices=21)
weights = dict(card["weights"], sha256=file_sha256(out / "weights.safetensors"))
card.update(name=out.name, thresholds=[], training=training_entry, lineage=[lineage], weights=weights,
            metrics=dict(adapted_slices=dict(before=quality, after=after)))
(out / "model.json").write_text(json.dumps(card))
say(result=str(out), summary=f"Model: {{out}}")
"""


def write_program(path: Path) -> str:
    """Write the program to a file; its path."""
    root = str(Path(__file__).resolve().parents[2])
    path.write_text(PROGRAM.format(python=sys.executable, root=root), encoding="utf-8")
    path.chmod(0o755)
    return str(path)
