"""The 256 pairs of places in a patch whose grey levels a descriptor compares.

Of 6,000 random pairs within 12 pixels, those that are most often decided either way and depend least on each other, as
for ORB (Rublee et al. 2011), in patches of the sample's scenes that are turned to their orientation. Each eighth of the
256 bits begins with bits that depend least on each other: it is a key that spreads over all its values. Unselected
pairs give 280 times as many equal keys, and 300 times as many unrelated patches within 48 bits.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

RADIUS = 12  # pixels

_HALF_PIXELS = (
    "{}BKC3k((m^Z)Gv1?&Lr^$_g$4Gjkj^aA(;_x<()4D<%?{{jH}2L%WI|Lpni`||`90{ILR_Y42_3I+lO1O*iL`SkYu2=V?E0R{a8`|1V-"
    "0`vn9{|o&1@%#V?6$JDU2M`VZ{_p?|0R;E*`4Rf?2=WdD{rmS5`Va;T0|yK5?)3ES^A7e33Jwhk01E!}_5Aer^$q$I4fYfG{SO1}6Z;nc_5J"
    "by1N00H5e^Fq0RajF{S5g7`t|?%1OWm22?P)Q{rU9#2l)pT^8oS$>-"
    "rN54D<RC_Yms@4Eh1{5B3K7`ug|^@%01p`0)A#@C5z^{SW%}0rUd|6bTRW@b~fX0ty822>J~B`V#sH2nYrN^Zf7o2owG7@Co@01Oo~E_4@k!"
    "0TBie`uY9z0t^BA3+(&@`3e38?+@|(2M7fb@bUcz^biyE7ybwF{RRT|3=R?d{_+a+?*aA)0~hW55C;JJ`}Fn)`waX41^oXK`uYC@00Hw4_V@"
    "G(3;qZG`Rf4_69o(d^YZud@ec3`4Dk#10Sp8V5B(1V{1O590t*5M{`>p`>;V4$2nq}Y0r2<@1nmU#{}B=Q1Ni;?`0*19`Sbw|@%Iq$_zm&>0"
    "s9CE{`vm%1_TB1`26ws`vvt4`2zmx2?-"
    "1K0s#^Z00{yY{1*BE2@V7Y_V(}h_z3v}4G{<u0__Uz>j>`#4EG82_3Qxm0|x*E69^Uj_Xqk3?g{Mz{|^B4`~CI*3jzlD2JiI|^Y;Gg2LJ*M{"
    "09I81r-"
    "nS{RjN@6aE4H@C^O%`W6NR0}%KM4*&t{2lf>P{S5W`0to&L{`v*&1_2K9?g;w)0|o>64DS*3>HPfk4iOR$_wxAm3;GNH`xFBb@(A<<1QiGk0"
    "r36@{Q>g!2LBNQ`~Lj~?F#e@1M?5^1M~jv@$&Bg4*n7i2<!Ir|NIE|5eWkD{uA&8@AV521@`|B0{s385dH%S{rB(?2@eVK{T2W4_v;P~2M_}"
    "N>-hTv`}_Cv0_*?q?*{P-?f~lr76lRh5&sJM{t5sO^6vNZ4gD1K1N#E?_6GU`3Hk*31@!?60SyHU_5$(y3li-"
    "N|L_6`5C{nf`Rnoj1pfd6{`~m+4Fdoc_YeRL`T+d)2>1m7_3RMz00#g2_Vnun^7#4`?e+ip1`P)H`|ke#?Dp^U4haeb6!sMV^#J(>3+xN=`S"
    "1Gk1posF@(}_S{s#OH?*s7p1_TTO0rC9u3G@Z|_VWAj`1$kv0rmz62KEH<^#=U?1NZ6(^#=6}7Wx10_xbq&69@+r_!SNg0O<e<?E3@j0R;{C"
    "0Sx^8{`UtG2mB2P|MT$y0RRW^"
)  # fmt: skip


def pairs() -> NDArray[np.float64]:
    """[256, 2, 2]: x and y of both places of each pair, in pixels from the centre."""
    content = base64.b85decode(_HALF_PIXELS)
    return np.frombuffer(content, np.int8).reshape(-1, 2, 2) / 2
