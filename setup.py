"Packaging: everything comes from settings.ini, which nbdev reads too."
import shlex
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    keywords=cfg['keywords'].split(),
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Education',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['fgar', 'fgar.*']),
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg['requirements']),
    extras_require={name: shlex.split(cfg[f'{name}_requirements']) for name in ('dev', 'onnx')},
    entry_points={
        'console_scripts': shlex.split(cfg['console_scripts']),
        'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],   # lets other nbdev projects link to our docs
    },
    zip_safe=False,
)
