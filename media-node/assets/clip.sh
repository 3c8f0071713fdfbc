#!/bin/sh
# Makes clip.flv, the stream of `standalone --demo`: colour bars with a clock and a tone, 10 s, H.264 baseline and AAC.
# Run: make demo-clip (needs ffmpeg with drawtext, and fontconfig)
set -eu
cd "$(dirname "$0")"
ffmpeg -y -v error \
    -f lavfi -i "smptehdbars=size=640x360:rate=25:duration=10" \
    -f lavfi -i "sine=frequency=440:sample_rate=44100:duration=10" \
    -vf "drawtext=font=monospace:text='%{pts\:hms}':fontsize=48:fontcolor=white:box=1:boxcolor=black@0.7:boxborderw=12:x=(w-tw)/2:y=h/6,drawtext=font=monospace:text='Tallylight demo':fontsize=24:fontcolor=white:box=1:boxcolor=black@0.7:boxborderw=8:x=(w-tw)/2:y=h/3+24" \
    -af "volume=0.1" \
    -c:v libx264 -profile:v baseline -preset slow -crf 24 -g 50 -keyint_min 50 -sc_threshold 0 -pix_fmt yuv420p \
    -c:a aac -b:a 64k -ac 1 \
    -map_metadata -1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact -flvflags no_duration_filesize \
    -f flv clip.flv
