"""The five moving pictures of the home page, in nbs/images/: `python tools/moving.py [NAME ...]`, a few minutes on one CPU core.

Four small networks learn nine classes of court26 (64 px, difficulty 0, 16 frames, exact flow) for the steps given below, far too short to be good: the pictures show how each system works, not how well.
The fifth needs no network. The clip shown comes from the validation players."""
import argparse
from pathlib import Path

import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

import fgar
from fgar.core import seed_everything
from fgar.ops.correlation import correlate
from fgar.ops.flow import flow_to_rgb
from fgar.show import COLORS, heat, style
from fgar.data.augment import Augment
from fgar.models.stmanet import received
from fgar.synthetic import CLASSES, render

OUT = Path(__file__).resolve().parent.parent/'nbs/images'
NINE, T, SIZE, CLIPS, STEPS = CLASSES[::3], 16, 64, 108, 50
LABELS = torch.tensor([CLASSES.index(c) for c in NINE])
SHOWN = CLASSES.index('jump shot')

def data(labels, indices, split, size=SIZE):
    "Frames (N, T, H, W, 3), flow (N, 2, T, H, W) to the next frame, and the truth."
    clips = render(labels, indices, split, size=size, frames=T + 1, difficulty=0., seconds=2., truth=True)
    return clips.frames[:, :T], clips.flow, clips

def inputs(model, frames, flow): return [{'rgb': Augment(SIZE, train=False)(frames)[0], 'flow': flow}[k] for k in model.spec.inputs]

def learn(name, steps=STEPS, lr=2e-3, **options):
    "A small network after a short training, and what it said on its way."
    seed_everything(0)
    index = torch.arange(CLIPS)
    frames, flow, _ = data(LABELS[index % 9], index, 'train')
    model = fgar.create(name, classes=9, body='small', **options).train()
    given, optimizer, correct = inputs(model, frames, flow), torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-2), []
    for step in range(steps):
        pick = torch.randint(CLIPS, (9,))
        pred = model(*(x[pick] for x in given)); loss = model.loss(pred, pick % 9)['total']
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        correct.append((pred.logits.argmax(1) == pick % 9).float().mean().item())
    print(f'{name}: {np.mean(correct[-20:]):.0%} of the training clips right in the last 20 of {steps} steps', flush=True)
    return model.eval()

def clip_shown(model, label=SHOWN, index=3):
    "The clip large, and what the model says of it small."
    large, small = (data(torch.tensor([label]), torch.tensor([index]), 'val', size)[0:2] for size in (128, SIZE))
    with torch.no_grad(): return large[0][0], large[1], model(*inputs(model, *small)).extras

def animate(name, draw, count, width=4.8, height=1.65, ms=140, **layout):
    "A GIF of `count` pictures, each drawn by draw(axes, t), with one palette for all."
    pictures = []
    for t in range(count):
        with style(): figure, axes = plt.subplots(figsize=(width, height), dpi=90, **layout)
        axes = np.atleast_1d(axes).ravel()
        for ax in axes: ax.set(xticks=[], yticks=[])
        draw(axes, t)
        figure.canvas.draw(); pictures.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())); plt.close(figure)
    tall = Image.new('RGB', (pictures[0].width, pictures[0].height*min(4, count)))
    for i, p in enumerate(pictures[::max(1, count//4)][:4]): tall.paste(p, (0, i*p.height))
    for i, c in enumerate(COLORS): tall.paste(tuple(round(255*v) for v in matplotlib.colors.to_rgb(c)), (60*i, 0, 60*i + 60, 30))       # so that marks keep their colours
    palette = tall.quantize(40, dither=Image.Dither.NONE)
    first, *rest = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    path = OUT/f'{name}.gif'
    first.save(path, save_all=True, append_images=rest, duration=[ms]*(count - 1) + [ms*5], loop=0, optimize=True, disposal=1)
    print(f'{path.name}: {path.stat().st_size/1000:.0f} kB, {first.size}', flush=True)

def nts():
    frames, _, found = clip_shown(learn('nts', frames=T, size=SIZE, K=2, M=4))
    boxes = found['boxes'][0]*2                                                                         # T K 4, of the large frames
    def draw(axes, t):
        axes[0].imshow(frames[t]); axes[0].set_title('scored regions', fontsize=8)
        for k, (x1, y1, x2, y2) in enumerate(boxes[t].tolist()):
            axes[0].add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=COLORS[1 + k], lw=2))
            crop = frames[t, max(0, round(y1)):round(y2), max(0, round(x1)):round(x2)]
            axes[1 + k].imshow(crop, aspect='auto'); axes[1 + k].set_title(('best', 'second')[k] + ', enlarged', fontsize=8)
            for s in axes[1 + k].spines.values(): s.set(visible=True, color=COLORS[1 + k], lw=2)
    animate('nts', draw, T, ncols=3)

def mhssa():
    frames, _, found = clip_shown(learn('mhssa-flow', steps=150, stack=1))
    weights = found['weights'][0]                                                                       # heads T T: row asks, column answers
    def draw(axes, t):
        axes[0].imshow(frames[t]); axes[0].set_title(f'moment {t + 1} of {T}', fontsize=8)
        for h, ax in enumerate(axes[1:]):
            ax.bar(range(T), weights[h, t], color=[COLORS[1] if i == t else '.8' for i in range(T)], width=.9)
            ax.set(xlim=(-.6, T - .4), ylim=(0, weights.max()*1.1), xlabel='moment'); ax.set_title(f'head {h + 1}: whom it asks', fontsize=8)
    animate('mhssa', draw, T, ncols=3)

def deepfusion():
    frames, flow, found = clip_shown(learn('deepfusion', size=SIZE, stack=1))
    energy = found['maps'][0].norm(dim=0)                                                               # T h w
    colour = flow_to_rgb(flow[0].permute(1, 0, 2, 3), 4.)
    joint = heat(frames, energy)
    def draw(axes, t):
        for ax, picture, title in zip(axes, (frames[t], colour[t], joint[t]), ('pictures', 'flow', 'fused')): ax.imshow(picture); ax.set_title(title, fontsize=8)
    animate('deepfusion', draw, T, ncols=3)

def fstfl(radius=12, side=7):
    clips = render(torch.tensor([CLASSES.index('bounce pass')]), torch.tensor([3]), 'val', size=112, frames=40, seconds=2., difficulty=0., truth=True)
    begin = int(clips.moment[0].mean()*20) - 6                                                           # 13 frames around the telling moment
    frames = clips.frames[0, begin:begin+13]; ball = ((clips.ball_box[0, begin:begin+13, :2] + clips.ball_box[0, begin:begin+13, 2:])/2).round().long().clamp(0, 111)
    x = frames.permute(0, 3, 1, 2).float()/255; x = x - x.mean((2, 3), keepdim=True)
    prints = F.unfold(x, side, padding=side//2).unflatten(2, x.shape[-2:])                              # a fingerprint of each pixel: its neighbourhood
    def draw(axes, t):
        (bx, by), window = ball[t].tolist(), correlate(prints[t:t+1], prints[t+1:t+2], radius)[0][..., ball[t, 1], ball[t, 0]]
        peak = window.flatten().argmax().item(); dy, dx = peak//(2*radius + 1) - radius, peak % (2*radius + 1) - radius
        axes[0].imshow(frames[t]); axes[0].plot(bx, by, '+', c='w', ms=11, mew=2); axes[0].set_title('where will this go?', fontsize=8)
        axes[1].imshow(window, cmap='cividis', extent=(-radius - .5, radius + .5, radius + .5, -radius - .5), vmin=-.5, vmax=1); axes[1].plot(dx, dy, 'o', mfc='none', mec=COLORS[1], ms=10, mew=2); axes[1].set_title('correlation', fontsize=8)
        axes[2].imshow(frames[t+1]); axes[2].plot(bx + dx, by + dy, 'o', mfc='none', mec='w', ms=12, mew=2); axes[2].set_title('the peak, one frame later', fontsize=8)
        for ax in (axes[0], axes[2]): ax.set(xlim=(0, 111), ylim=(111, 0))
    animate('fstfl', draw, 12, ncols=3)

def stmanet():
    model = learn('stmanet'); model.keep_maps = True
    frames, _, found = clip_shown(model)
    space = [received(m[0]) for m in found['space_maps']]                                               # per stage h w, one for the clip
    shown = [heat(frames, s.expand(T, *s.shape) if s.ndim == 2 else s.repeat_interleave(-(-T//len(s)), 0)[:T]) for s in space]
    def draw(axes, t):
        for i in range(4):
            axes[i].imshow(shown[i][t]); axes[i].set_title(f'places, stage {i + 2}', fontsize=8)
            time = found['time_maps'][i][0]; row = t*len(time)//T
            axes[4 + i].imshow(time, cmap='cividis', vmin=0, aspect='equal'); axes[4 + i].add_patch(plt.Rectangle((-.5, row - .5), time.shape[1], 1, fill=False, ec=COLORS[1], lw=1.5)); axes[4 + i].set_title(f'times, stage {i + 2}', fontsize=8)
    animate('stmanet', draw, T, width=4.2, height=2.4, nrows=2, ncols=4)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', default=['nts', 'mhssa', 'deepfusion', 'fstfl', 'stmanet'])
    OUT.mkdir(exist_ok=True)
    for name in parser.parse_args().names: globals()[name]()
