"Skeletons: missing joints, the graph, the two networks, files."
import json, re
from pathlib import Path

import numpy as np
import pytest, torch
from torch.testing import assert_close

import fgar
from fgar.data.streams import MIRROR_JOINTS
from fgar.evaluate import EvaluateConfig
from fgar.models.skeletons import PARENTS, DualDomain, GraphTransformer, TemporalKernelAttention, fill_missing, named_joints, normalise, read_skeleton, skeleton_graph, skeleton_loader, skeleton_seconds, spectral_filter
from fgar.motion import JOINTS as NAMES
from fgar.synthetic import court26_pose

def randn(*shape, seed=0, dtype=torch.double): return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# ---- missing joints

def fill_loops(pose):
    "One joint at a time, in words."
    out = pose.clone()
    N, _, T, V = pose.shape
    for n in range(N):
        known = {v: [t for t in range(T) if pose[n, :, t, v].isfinite().all()] for v in range(V)}
        for v in range(V):
            for t in range(T):
                seen = known[v]
                if not seen: continue
                if t in seen: value = pose[n, :, t, v]
                elif t < seen[0]: value = pose[n, :, seen[0], v]
                elif t > seen[-1]: value = pose[n, :, seen[-1], v]
                else:
                    a, b = max(s for s in seen if s < t), min(s for s in seen if s > t)
                    value = pose[n, :, a, v] + (t - a)/(b - a)*(pose[n, :, b, v] - pose[n, :, a, v])
                out[n, :, t, v] = value
        for v in range(V):
            if not known[v]: out[n, :, :, v] = torch.stack([out[n, :, :, u] for u in range(V) if known[u]]).mean(0)
    return out

@pytest.mark.parametrize('share', [0., .3, .8, .95])
@pytest.mark.parametrize('T', [1, 2, 9])
def test_fill_missing_equals_loops(share, T):
    pose = randn(3, 2, T, 15)
    gone = torch.rand(3, 1, T, 15, generator=torch.Generator().manual_seed(1)) < share
    gone[:, :, 0, 0] = False
    pose = pose.masked_fill(gone.expand_as(pose), torch.nan)
    pose[0, 0, -1, 3] = torch.nan                                      # half a joint is no joint
    filled = fill_missing(pose)
    assert filled.isfinite().all()
    assert_close(filled, fill_loops(pose))

def test_no_joint_at_all_is_explained():
    pose = torch.rand(3, 2, 4, 15); pose[1] = torch.nan
    with pytest.raises(ValueError, match='clip 1 of the batch'): fill_missing(pose)
    with pytest.raises(ValueError, match='clip 1'): fgar.create('gtn', 3)(pose)

def test_place_and_size_do_not_matter():
    pose = randn(2, 2, 6, 15)
    moved = .3*pose + torch.tensor([.5, -2.])[:, None, None]
    assert_close(normalise(moved), normalise(pose))
    out = normalise(pose)
    assert_close(out[..., 2].mean(2), torch.zeros(2, 2, dtype=torch.double), atol=1e-9, rtol=0)
    assert_close((out[..., 1] - out[..., 2]).norm(dim=1).mean(1), torch.ones(2, dtype=torch.double))
    assert normalise(torch.zeros(1, 2, 3, 15)).isfinite().all()        # a torso without length


# ---- the graph

def test_the_skeleton_is_a_tree_and_its_own_mirror():
    assert [NAMES[PARENTS[NAMES.index(n)]] for n in ('head', 'left hand', 'right foot', 'left shoulder', 'right hip', 'pelvis')] == ['neck', 'left elbow', 'right knee', 'neck', 'pelvis', 'pelvis']
    for j in range(15):
        path = [j]
        while path[-1] != 2: path.append(PARENTS[path[-1]]); assert len(path) < 15
        assert PARENTS[MIRROR_JOINTS[j]] == MIRROR_JOINTS[PARENTS[j]]

def test_graph_matrices():
    near, modes, values = skeleton_graph()
    assert_close(near[0], torch.eye(15))
    assert set(near.sum(2).flatten().tolist()) <= {0., 1.} and (near[1].sum(1) == torch.tensor([float(p != j) for j, p in enumerate(PARENTS)])).all()
    link = (near[1] > 0).double(); link = link + link.T
    laplacian = link.sum(1).diag() - link
    assert_close(modes.double() @ values.double().diag() @ modes.T.double(), laplacian, atol=1e-5, rtol=0)
    assert (values.diff() > -1e-6).all() and (values.abs() < 1e-5).sum() == 1                       # connected: one constant mode
    with torch.device('meta'): assert all(x.device.type == 'meta' for x in skeleton_graph())

@pytest.mark.parametrize('N, C, T', [(1, 1, 1), (2, 3, 7)])
def test_spectral_filter(N, C, T):
    modes = skeleton_graph()[1].double()
    x, response = randn(N, C, T, 15), randn(C, 15, seed=1)
    slow = torch.stack([torch.stack([torch.stack([modes @ (response[c]*(modes.T @ x[n, c, t])) for t in range(T)]) for c in range(C)]) for n in range(N)])
    assert_close(spectral_filter(x, response, modes), slow)
    only = torch.zeros(C, 15, dtype=torch.double); only[:, 0] = 1                                   # the constant mode alone: the mean over joints
    assert_close(spectral_filter(x, only, modes), x.mean(-1, keepdim=True).expand_as(x), atol=1e-5, rtol=1e-4)


# ---- blocks and networks

@pytest.mark.parametrize('block', [DualDomain, GraphTransformer])
@pytest.mark.parametrize('T, stride', [(1, 1), (7, 1), (8, 2), (9, 2)])
def test_blocks(block, T, stride):
    module, x = block(4, 8, stride), torch.randn(2, 4, T, 15)
    assert module(x).shape == (2, 8, -(-T//stride), 15)
    module(x).sum().backward()
    assert not [n for n, p in module.named_parameters() if p.grad is None]

def test_vertex_part_of_the_dual_domain_block():
    torch.manual_seed(0)
    block, x = DualDomain(2, 3).double(), randn(1, 2, 4, 15)
    near = block.near
    slow = block.vertex.bias[:, None, None] + sum(torch.einsum('oc,nctv,wv->notw', block.vertex.weight[:, 2*d:2*d + 2, 0, 0], x, near[d]) for d in range(3))
    assert_close(block.vertex(torch.einsum('nctv,dwv->ndctw', x, near).flatten(1, 2)), slow)

def test_kernel_attention_is_a_mean_of_its_branches():
    torch.manual_seed(0)
    module, x = TemporalKernelAttention(6).double(), randn(2, 6, 9, 15)
    parts = [b(x) for b in module.branches]
    low, high = torch.minimum(*parts), torch.maximum(*parts)
    out = module(x)
    assert (out >= low - 1e-9).all() and (out <= high + 1e-9).all()
    torch.nn.init.zeros_(module.score[-1].weight); torch.nn.init.zeros_(module.score[-1].bias)
    assert_close(module(x), sum(parts)/2)

def test_joints_attend_to_joints_in_each_frame_and_head():
    torch.manual_seed(0)
    block, x = GraphTransformer(3, 8).double().eval(), randn(2, 3, 5, 15)
    torch.nn.init.normal_(block.graph)
    qkv, mixed = block.qkv(x), torch.zeros(2, 8, 5, 15, dtype=torch.double)
    for n in range(2):
        for t in range(5):
            for h in range(4):
                q, k, v = (qkv[n, 8*i + 2*h:8*i + 2*h + 2, t].T for i in range(3))                    # 15 joints, 2 channels of this head
                mixed[n, 2*h:2*h + 2, t] = (((q @ k.T/2**.5).softmax(-1) + block.graph[h]) @ v).T
    assert_close(block(x), (block.norm2(block.time(block.norm(block.out(mixed)).relu())) + block.skip(x)).relu())
    with pytest.raises(ValueError, match='divisor of after=10, got 4'): fgar.create('gtn', 3, widths=(10,))

@pytest.mark.parametrize('name', ['gtn', 'dgcn'])
@pytest.mark.parametrize('T', [1, 5, 16])
def test_networks(name, T):
    torch.manual_seed(0)
    model, pose = fgar.create(name, 5).eval(), torch.rand(2, 2, T, 15)
    pred = model(pose)
    assert_close(pred.logits, (pred.extras['joint_logits'] + pred.extras['bone_logits'])/2)
    assert_close(model(pose*.5 + .1).logits, pred.logits, atol=1e-4, rtol=1e-4)                     # place and size taken out
    pose[:, :, :, 14] = torch.nan
    assert model(pose).logits.isfinite().all()

@pytest.mark.parametrize('shape', [(2, 16, 15, 2), (2, 2, 16, 25), (2, 3, 16, 15)])
def test_wrong_poses_are_explained(shape):
    with pytest.raises(ValueError, match=re.escape('expected (N, 2, T, 15)')): fgar.create('dgcn', 3)(torch.zeros(shape))

@pytest.mark.parametrize('name', ['gtn', 'dgcn'])
def test_learns_two_actions_from_joints(name, tmp_path):
    run = fgar.train(fgar.TrainConfig(model=name, classes=('catch', 'dunk'), clips=32, val_clips=16, difficulty=0., frames=8, size=64, epochs=9, warmup=1., batch=8, optimizer='adamw', lr=4e-3, crop='square',
                                      out=str(tmp_path), quiet=True, tensorboard=False))
    assert run.best > .8


def test_folded_solutions_run():
    cells = json.loads((Path(__file__).parent.parent/'nbs/41a_skeletons.ipynb').read_text())['cells']
    text = next(t for t in (''.join(c['source']) for c in cells) if '<summary>Solutions' in t)
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) == 1
    for block in blocks: exec(block, dict(torch=torch, spectral_filter=spectral_filter, modes=skeleton_graph()[1]))


# ---- files

def ntu(path, frames):
    "A file of NTU RGB+D's form: frames of bodies of (25, 2) px in the colour image."
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body in bodies:
            lines += ['72057594037931101 0 1 1 1 1 0 0.02 -0.1 2', '25'] + [f'0.1 0.2 3.1 200 180 {x} {y} 0 0 0 1 2' for x, y in body.tolist()]
    path.write_text('\n'.join(lines))

def test_files_come_as_court_joints(tmp_path):
    xy = np.random.default_rng(0).random((4, 15, 2))
    np.save(tmp_path/'a.npy', xy)
    assert_close(read_skeleton(tmp_path/'a.npy'), torch.tensor(xy).float())
    coco = np.random.default_rng(1).random((4, 17, 3))
    score = np.ones((4, 17)); score[2, 5] = 0
    np.savez(tmp_path/'b.npz', joints=coco*[320, 200, 1], size=(320, 200), score=score)
    out = read_skeleton(tmp_path/'b.npz')
    assert out.shape == (4, 15, 2)
    assert_close(out[0, NAMES.index('pelvis')], torch.tensor(coco[0, [11, 12], :2].mean(0)).float())
    assert_close(out[1, NAMES.index('right hand')], torch.tensor(coco[1, 10, :2]).float())
    assert out[2, [NAMES.index('left shoulder'), NAMES.index('neck')]].isnan().all() and out[[0, 1, 3]].isfinite().all()
    body = torch.rand(25, 2)*torch.tensor([1920, 1080])
    ntu(tmp_path/'S001.skeleton', [[body], [], [body, body + 5]])
    out = read_skeleton(tmp_path/'S001.skeleton')
    assert out.shape == (3, 15, 2) and out[1].isnan().all()
    for name, j in (('head', 3), ('pelvis', 0), ('left hand', 7), ('right foot', 19), ('right elbow', 9)): assert_close(out[2, NAMES.index(name)], body[j]/torch.tensor([1920, 1080]), atol=1e-4, rtol=1e-3)

@pytest.mark.parametrize('make, words', [
    (lambda p: np.save(p, np.zeros((4, 16, 2))), 'J of 15, 17, 25'), (lambda p: np.save(p, np.zeros((4, 30))), 'expected (T, J, 2)'), (lambda p: np.save(p, np.zeros((0, 15, 2))), 'expected (T, J, 2)'),
    (lambda p: np.save(p, np.full((4, 15, 2), 300.)), 'Joints in px?'), (lambda p: p.write_text('joints'), 'cannot be read')])
def test_wrong_files_are_explained(tmp_path, make, words):
    make(tmp_path/'x.npy')
    with pytest.raises(ValueError, match=re.escape(words)): read_skeleton(tmp_path/'x.npy')

def test_other_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='no file'): read_skeleton(tmp_path/'none.npy')
    (tmp_path/'cut.skeleton').write_text('3\n1\n72057 0 1')
    with pytest.raises(ValueError, match='cannot be read'): read_skeleton(tmp_path/'cut.skeleton')
    np.savez(tmp_path/'odd.npz', xy=np.zeros((3, 15, 2)))
    with pytest.raises(ValueError, match='joints'): read_skeleton(tmp_path/'odd.npz')

def test_loader(tmp_path):
    for i in range(6): np.save(tmp_path/f'{i}.npy', np.full((50, 15, 2), i/10) + np.arange(50)[:, None, None]/1000)
    (tmp_path/'m.csv').write_text('path,label,split,start,end\n' + '\n'.join(f'{i}.npy,{"ab"[i % 2]},{"train" if i < 4 else "val"},{1 if i == 0 else ""},{1.4 if i == 0 else ""}' for i in range(6)))
    loader = skeleton_loader(tmp_path/'m.csv', frames=5, batch=4)
    batch = next(iter(loader.epoch(0)))
    assert batch['pose'].shape == (4, 2, 5, 15) and batch['label'].tolist() == [0, 1, 0, 1] and loader.labels == ['a', 'b']
    assert_close(batch['pose'][0, 0, :, 0], torch.tensor([.026, .028, .030, .032, .034]), atol=1e-5, rtol=0)     # 1 s to 1.4 s at 25 fps: frames 25 … 34
    assert len(skeleton_loader(tmp_path/'m.csv', 5, 'val').targets) == 2
    (tmp_path/'late.csv').write_text('path,label,split,start,end\n0.npy,a,train,9,10')
    with pytest.raises(ValueError, match='2.00 s'): skeleton_loader(tmp_path/'late.csv')

def test_joints_by_name(tmp_path):
    xyz = np.random.default_rng(0).normal(size=(4, 17, 3))
    names = [n.upper().replace(' ', '_') for n in NAMES[::-1]] + ['nose', 'tail']
    np.testing.assert_allclose(named_joints(xyz, names), xyz[:, 14::-1])
    short = [n for n in NAMES if n not in ('neck', 'pelvis')]
    out = named_joints(xyz[:, :13], short)
    for name, sides in (('neck', 'shoulder'), ('pelvis', 'hip')):
        np.testing.assert_allclose(out[:, NAMES.index(name)], xyz[:, [short.index(f'{s} {sides}') for s in ('left', 'right')]].mean(1))
    with pytest.raises(ValueError, match='none for left hand'): named_joints(xyz[:, :14], [n for n in NAMES if n != 'left hand'])
    with pytest.raises(ValueError, match='expected one name for each of 17 joints'): named_joints(xyz, NAMES)
    with pytest.raises(ValueError, match='none twice'): named_joints(xyz[:, :15], ['head', *NAMES[:14]])
    np.savez(tmp_path/'named.npz', joints=xyz, names=names, size=(2, 4))
    np.testing.assert_allclose(read_skeleton(tmp_path/'named.npz'), xyz[:, 14::-1, :2]/(2, 4), rtol=1e-5)

def test_rate_of_a_file(tmp_path):
    xy = np.arange(60)[:, None, None]/100 + np.zeros((60, 15, 2))
    np.savez(tmp_path/'said.npz', joints=xy, fps=20); np.save(tmp_path/'unsaid.npy', xy)
    assert skeleton_seconds(tmp_path/'said.npz') == 3 and skeleton_seconds(tmp_path/'unsaid.npy') == 60/25 and skeleton_seconds(tmp_path/'said.npz', 10) == 6
    (tmp_path/'m.csv').write_text('path,label,start,end\nsaid.npz,a,1,1.5\nunsaid.npy,b,1,')
    loader = skeleton_loader(tmp_path/'m.csv', frames=10, split='')
    first, second = loader.extra['pose'][:, 0, :, 0]
    assert_close(first, torch.arange(20, 30)/100)
    assert second[0] > .25
    assert loader.name(1) == 'unsaid.npy'

def test_files_train_evaluate_and_predict(tmp_path):
    for i, pose in enumerate(court26_pose('train', 8, 12, 0., ['catch', 'jump shot'])): np.savez(tmp_path/f'{i}.npz', joints=pose.permute(1, 2, 0), fps=6)
    (tmp_path/'m.csv').write_text('path,label,split\n' + '\n'.join(f'{i}.npz,{"ab"[i % 2]},{"train" if i < 6 else "val"}' for i in range(8)))
    run = fgar.train(fgar.TrainConfig(model='dgcn', data=str(tmp_path/'m.csv'), out=str(tmp_path/'run'), frames=4, epochs=2, batch=3, tensorboard=False, quiet=True))
    result = fgar.evaluate(EvaluateConfig(str(run.folder/'best.pt'), split='val', quiet=True))
    assert result.names == ['6.npz', '7.npz'] and result.summary['top1'] == run.best
    whole, = fgar.predict(tmp_path/'7.npz', run.folder/'best.pt')
    assert (whole.start, whole.end) == (0, 2) and torch.tensor(whole.scores).sum() == pytest.approx(1)
    assert dict(zip(whole.labels, whole.scores))['a'] == pytest.approx(result.scores[1, 0].item(), abs=1e-5)
    assert len(fgar.predict(tmp_path/'7.npz', run.folder/'best.pt', window=.5)) == 7
    with pytest.raises(FileNotFoundError, match='no file'): fgar.predict(tmp_path/'8.npz', run.folder/'best.pt')
    (tmp_path/'film.mp4').write_bytes(b'no joints')
    (tmp_path/'v.csv').write_text('path,label,split\nfilm.mp4,a,train\nfilm.mp4,a,val')
    with pytest.raises(ValueError, match=re.escape("'film.mp4' is no skeleton file")): fgar.train(fgar.TrainConfig(model='gtn', data=str(tmp_path/'v.csv'), out=str(tmp_path/'v'), epochs=2, quiet=True, tensorboard=False))
