"""Print every measured row with its goal, and what is met (`make goals`)."""

from __future__ import annotations

import json

from _results import FOLDER, line


def main() -> None:
    met = missed = 0
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        machine = content["machine"]
        print(f"\n{content['name']}  ({content['command']}; {machine['cpu']}, {machine['threads']} threads)")
        for row in content["rows"]:
            print("  " + line(row))
            met += row["met"] is True
            missed += row["met"] is False
    print(f"\n{met} goals met, {missed} not")


if __name__ == "__main__":
    main()
