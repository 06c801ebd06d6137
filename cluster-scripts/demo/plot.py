"""The plot of `scale-demo --skew`, as SVG."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 60, 150, 30, 45
COLOURS = ["#3366cc", "#dc7a1c", "#2e9c4b", "#8e44ad", "#777777"]


def draw(samples, turned, spread):
    nodes = sorted({node for sample in samples for node in sample["load"]})
    last = samples[-1]["at"]
    most = max(max([*sample["load"].values(), 1]) for sample in samples) * 1.1
    begins = next(place for place, sample in enumerate(samples) if sum(sample["load"].values()) > 0)
    # (Loads are known after some seconds.)
    samples = samples[begins:]
    shards_most = max(sample["shards"] for sample in samples) + 2

    def x(at):
        return LEFT + at / last * (WIDTH - LEFT - RIGHT)

    def y(value, of=most):
        return HEIGHT - BOTTOM - value / of * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">Requests per second served by each node\'s leaders</text>',
    ]
    tick = next(step for step in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 10**6) if most / step <= 8)
    for value in range(0, int(most) + 1, tick):
        out.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for at in range(0, int(last) + 1, 20):
        out.append(f'<text x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{at}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">seconds</text>')
    marks = [(turned, "90 % to one shard")] + ([(turned + spread, f"spread, {spread:.0f} s later")] if spread is not None else [])
    for line, (at, text) in enumerate(marks):
        out.append(f'<path d="M{x(at):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#999999" stroke-dasharray="4 3"/>')
        out.append(f'<text x="{x(at) + 4:.1f}" y="{TOP + 12 + 14 * line}" fill="#555555">{text}</text>')
    lines = [(f"node {node}", COLOURS[n % 4], [(s["at"], y(s["load"].get(node, 0))) for s in samples], 2) for n, node in enumerate(nodes)]
    shards = [(s["at"], y(s["shards"], shards_most)) for s in samples]
    lines.append((f"shards of the table ({samples[0]['shards']} to {samples[-1]['shards']})", COLOURS[4], shards, 1))
    for place, (name, colour, points, width) in enumerate(lines):
        path = "L".join(f"{x(at):.1f} {height:.1f}" for at, height in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        words = [name] if len(name) < 20 else name.split(" (")
        for row, word in enumerate(words):
            text = word if row == 0 else "(" + word
            out.append(f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 20 + 18 * place + 14 * row}" fill="{colour}">{text}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
