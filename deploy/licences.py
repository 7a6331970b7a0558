"""Prints the licences of everything that is built into the binary: ours, and what each dependency's authors ask to pass on."""

import json
import pathlib
import re
import subprocess
import sys


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, capture_output=True, text=True).stdout


def texts(folder):
    """The texts that a package comes with, without those that every Debian system has."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and re.match(r"(?i)(licen[cs]e|copying|copyright|notice|unlicense)", path.name):
            text = path.read_text(errors="replace").strip()
            if "TERMS AND CONDITIONS FOR USE, REPRODUCTION" not in text:
                yield text


def main():
    print(pathlib.Path("deploy/copyright").read_text())
    tree = ["tree", "--locked", "--package", "sync-engine", "--edges", "normal", "--prefix", "none", "--format", "{p}"]
    built = {tuple(line.split()[:2]) for line in cargo(*tree).splitlines() if line}
    packages = json.loads(cargo("metadata", "--locked", "--format-version", "1"))["packages"]
    found = {}
    for package in packages:
        name, version = package["name"], package["version"]
        if (name, "v" + version) not in built or package["source"] is None:
            continue
        authors = ", ".join(author.split(" <")[0] for author in package["authors"])
        title = f"{name} {version}: {package['license']}" + (f", by {authors}" if authors else "")
        said = list(texts(pathlib.Path(package["manifest_path"]).parent))
        for text in said or [""]:
            found.setdefault(text, []).append(title)
    if not found:
        sys.exit("no dependency was found")
    for text, titles in sorted(found.items(), key=lambda item: item[1]):
        print("-" * 80)
        print("\n".join(dict.fromkeys(titles)) + "\n")
        if text:
            print(text + "\n")


main()
