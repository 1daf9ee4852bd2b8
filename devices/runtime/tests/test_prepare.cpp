// Image -> frame: the cut, every pixel format against the definition written out plainly, and the edges of memory.
#include "prepare.h"

#include <gtest/gtest.h>
#include <libyuv.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fault.h"
#include "guarded.h"

namespace es {

static bool operator==(const Cut &a, const Cut &b) {
    return a.left == b.left && a.top == b.top && a.right == b.right && a.bottom == b.bottom &&
           a.halvings_x == b.halvings_x && a.halvings_y == b.halvings_y;
}

namespace {

using Bytes = std::vector<std::uint8_t>;

Geometry geometry(int width, int height, int border = 0, bool crop = true) { return {width, height, border, crop}; }

Bytes noise(std::size_t bytes, unsigned seed) {
    std::mt19937 random(seed);
    Bytes made(bytes);
    for (auto &byte : made) byte = static_cast<std::uint8_t>(random());
    return made;
}

// A whole RGB image, the way of the definition: every step makes a new one.
struct Picture {
    int width, height;
    Bytes rgb;
    int at(int x, int y, int c) const { return rgb[static_cast<std::size_t>(3 * (y * width + x) + c)]; }
};

template <typename F>
Picture made(int width, int height, F value) {
    Picture found{width, height, Bytes(static_cast<std::size_t>(3 * width * height))};
    auto next = found.rgb.begin();
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
            for (int c = 0; c < 3; ++c) *next++ = static_cast<std::uint8_t>(value(x, y, c));
    return found;
}

Picture bilinear(const Picture &p, int width, int height) {
    const auto taps = [](int available, int size) {
        std::vector<std::array<int, 3>> found;
        for (int i = 0; i < size; ++i) {
            const double scaled = 1 / (double(size) / available) * (i + 0.5);
            const double centre = std::clamp(scaled - 0.5, 0.0, available - 1.0);
            const int first = std::min(int(std::floor(centre)), std::max(0, available - 2));
            found.push_back({first, std::min(first + 1, available - 1), int(std::nearbyint((centre - first) * 256))});
        }
        return found;
    };
    const auto xs = taps(p.width, width), ys = taps(p.height, height);
    return made(width, height, [&](int x, int y, int c) {
        const auto [left, right, u] = xs[static_cast<std::size_t>(x)];
        const auto [top, bottom, v] = ys[static_cast<std::size_t>(y)];
        const std::int64_t above = p.at(left, top, c) * (256 - u) + p.at(right, top, c) * u;
        const std::int64_t below = p.at(left, bottom, c) * (256 - u) + p.at(right, bottom, c) * u;
        return (above * (256 - v) + below * v + (1 << 15)) >> 16;
    });
}

Picture reference(const Picture &whole, const Geometry &wanted) {
    const Cut box = cut(whole.width, whole.height, wanted);
    Picture p = made(box.right - box.left, box.bottom - box.top,
                     [&](int x, int y, int c) { return whole.at(box.left + x, box.top + y, c); });
    const int both = std::min(box.halvings_x, box.halvings_y);
    for (int k = 0; k < both; ++k)
        p = made(p.width / 2, p.height / 2, [&](int x, int y, int c) {
            return (p.at(2 * x, 2 * y, c) + p.at(2 * x + 1, 2 * y, c) + p.at(2 * x, 2 * y + 1, c) +
                    p.at(2 * x + 1, 2 * y + 1, c) + 2) / 4;
        });
    for (int k = both; k < box.halvings_y; ++k)
        p = made(p.width, p.height / 2,
                 [&](int x, int y, int c) { return (p.at(x, 2 * y, c) + p.at(x, 2 * y + 1, c) + 1) / 2; });
    for (int k = both; k < box.halvings_x; ++k)
        p = made(p.width / 2, p.height,
                 [&](int x, int y, int c) { return (p.at(2 * x, y, c) + p.at(2 * x + 1, y, c) + 1) / 2; });
    return bilinear(p, wanted.width, wanted.height);
}

es_image image_of(es_format format, int width, int height, const std::uint8_t *pixels, int stride = 0) {
    es_image image;
    ES_INIT(image);
    image.format = format, image.width = width, image.height = height, image.stride = stride, image.pixels = pixels;
    return image;
}

Bytes prepared(const es_image &image, const Geometry &wanted, int max_width = 0) {
    check_image(image, max_width != 0 ? max_width : image.width);
    Preparer preparer(wanted, max_width != 0 ? max_width : image.width);
    Bytes frame(static_cast<std::size_t>(3 * wanted.width * wanted.height));
    preparer.run(image, frame.data());
    return frame;
}

// What es_image holds of a picture, with `gap` bytes of noise behind each row but the last.
Bytes packed(const Picture &p, es_format format, int gap) {
    const int bytes = format == ES_RGBA ? 4 : 3;
    const auto stride = static_cast<std::size_t>(p.width * bytes + gap);
    Bytes found = noise(stride * static_cast<std::size_t>(p.height) - static_cast<std::size_t>(gap), 5);
    for (int y = 0; y < p.height; ++y)
        for (int x = 0; x < p.width; ++x)
            for (int c = 0; c < 3; ++c)
                found[static_cast<std::size_t>(y) * stride + static_cast<std::size_t>(x * bytes + c)] =
                    static_cast<std::uint8_t>(p.at(x, y, format == ES_BGR ? 2 - c : c));
    return found;
}

// The image's own pixels as RGB: a frame of its size, neither cut nor sampled.
Picture as_rgb(const es_image &image) {
    return {image.width, image.height, prepared(image, geometry(image.width, image.height))};
}

std::string refusal(const es_image &image, int max_width = 8192) {
    try {
        check_image(image, max_width);
        return "";
    } catch (const Fault &fault) {
        EXPECT_EQ(fault.status(), ES_IMAGE);
        return fault.what();
    }
}

TEST(Prepare, CutsLikePython) {
    // Each worked out by edgeskin.preprocess.cut.
    EXPECT_EQ(cut(1920, 1080, geometry(224, 224)), (Cut{420, 0, 1500, 1080, 2, 2}));
    EXPECT_EQ(cut(1080, 1920, geometry(224, 224)), (Cut{0, 420, 1080, 1500, 2, 2}));
    EXPECT_EQ(cut(1923, 1087, geometry(224, 224, 3)), (Cut{421, 3, 1501, 1083, 2, 2}));
    EXPECT_EQ(cut(1920, 1080, geometry(224, 224, 0, false)), (Cut{0, 0, 1920, 1080, 3, 2}));
    EXPECT_EQ(cut(1, 1, geometry(224, 224)), (Cut{0, 0, 1, 1, 0, 0}));
    EXPECT_EQ(cut(1935, 1007, geometry(32, 32, 0, false)), (Cut{7, 7, 1927, 999, 5, 4}));
    // 5 * 64 / 128 = 2.5 and 7 * 64 / 128 = 3.5: a half goes to the even number.
    EXPECT_EQ(cut(100, 5, geometry(64, 128)), (Cut{49, 0, 51, 5, 0, 0}));
    EXPECT_EQ(cut(100, 7, geometry(64, 128)), (Cut{48, 0, 52, 7, 0, 0}));
}

TEST(Prepare, RefusesAnImageSmallerThanItsBorder) {
    EXPECT_NO_THROW(cut(21, 21, geometry(32, 32, 10)));
    for (const auto &[width, height, border] : {std::array{20, 100, 10}, {100, 20, 10}, {100, 100, 2'000'000'000}}) {
        try {
            cut(width, height, geometry(32, 32, border));
            ADD_FAILURE() << width << "x" << height;
        } catch (const Fault &fault) {
            EXPECT_EQ(fault.status(), ES_IMAGE);
            EXPECT_NE(std::string(fault.what()).find("smaller than its border: got "), std::string::npos);
        }
    }
}

TEST(Prepare, EveryWidthIsHalvedExactly) {
    // Vector code has tails; each processor level of libyuv has other ones. 1: plain C; -1: all that is here.
    for (const int flags : {1, ~libyuv::kCpuHasAVX2, -1}) {
        libyuv::MaskCpuFlags(flags);
        for (int width = 1; width <= 300; ++width) {
            const Picture p{width, 37, noise(static_cast<std::size_t>(3 * 37 * width), static_cast<unsigned>(width))};
            for (const Geometry &wanted : {geometry(7, 5, 0, false), geometry(16, 4, 1, false), geometry(5, 9)}) {
                if (wanted.border_px > 0 && width < 3) continue;
                ASSERT_EQ(prepared(image_of(ES_RGB, width, 37, p.rgb.data()), wanted), reference(p, wanted).rgb)
                    << width << " -> " << wanted.width << "x" << wanted.height << " flags " << flags;
            }
        }
    }
    libyuv::MaskCpuFlags(-1);
}

TEST(Prepare, LongNarrowAndSmallImages) {
    for (const auto &[width, height] : {std::array{1, 1}, {1, 700}, {700, 1}, {2, 3}, {4097, 2}, {3, 2049}, {640, 481}})
        for (const bool crop : {true, false})
            for (const auto &[w, h] : {std::array{32, 32}, {33, 50}, {224, 32}}) {
                const Picture p{width, height, noise(static_cast<std::size_t>(3 * width * height), 3)};
                const Geometry wanted = geometry(w, h, 0, crop);
                ASSERT_EQ(prepared(image_of(ES_RGB, width, height, p.rgb.data()), wanted), reference(p, wanted).rgb)
                    << width << "x" << height << " -> " << w << "x" << h << (crop ? " crop" : " stretch");
            }
}

TEST(Prepare, AWeightHalfwayGoesToTheEvenNumber) {
    // Weights are counted in 1 / 256: a frame of 256 pixels asks for halves of them.
    for (const int length : {257, 259, 301, 401, 511, 151, 93}) {
        const Picture p{length, 2, noise(static_cast<std::size_t>(6 * length), 8)};
        const Geometry wide = geometry(256, 2, 0, false), tall = geometry(2, 256, 0, false);
        ASSERT_EQ(prepared(image_of(ES_RGB, length, 2, p.rgb.data()), wide), reference(p, wide).rgb) << length;
        const Picture turned{2, length, p.rgb};
        ASSERT_EQ(prepared(image_of(ES_RGB, 2, length, p.rgb.data()), tall), reference(turned, tall).rgb) << length;
    }
}

TEST(Prepare, OnePreparerServesImagesOfEverySize) {
    const Geometry wanted = geometry(32, 40, 1);
    Preparer preparer(wanted, 500);
    Bytes frame(3 * 32 * 40);
    for (const int width : {500, 3, 321, 64, 320, 499, 33, 500}) {
        const Picture p{width, 90, noise(static_cast<std::size_t>(270 * width), static_cast<unsigned>(width))};
        preparer.run(image_of(ES_RGB, width, 90, p.rgb.data()), frame.data());
        ASSERT_EQ(frame, reference(p, wanted).rgb) << width;
    }
}

TEST(Prepare, BytesOfAllOrdersGiveTheSameFrame) {
    const Geometry wanted = geometry(32, 32, 2);
    for (const int width : {5, 97, 131}) {
        const Picture p{width, 75, noise(static_cast<std::size_t>(225 * width), 9)};
        const Bytes expected = reference(p, wanted).rgb;
        for (const es_format format : {ES_RGB, ES_BGR, ES_RGBA})
            for (const int gap : {0, 1, 64}) {
                const Bytes held = packed(p, format, gap);
                const int stride = gap != 0 ? width * (format == ES_RGBA ? 4 : 3) + gap : 0;
                EXPECT_EQ(prepared(image_of(format, width, 75, held.data(), stride), wanted), expected)
                    << width << " format " << format << " gap " << gap;
            }
    }
}

// Kr, Kb of the recommendations, and their conversion in real numbers.
void expect_colour(es_colour colour, const Picture &found, const std::vector<std::array<int, 3>> &yuv) {
    const double red = colour == ES_BT709 ? 0.2126 : 0.299, blue = colour == ES_BT709 ? 0.0722 : 0.114;
    const double luma = colour == ES_JPEG ? 1 : 255.0 / 219, chroma = colour == ES_JPEG ? 1 : 255.0 / 224;
    double worst = 0;
    for (std::size_t i = 0; i < yuv.size(); ++i) {
        const double y = luma * (yuv[i][0] - (colour == ES_JPEG ? 0 : 16));
        const double r = y + chroma * (yuv[i][2] - 128) * 2 * (1 - red);
        const double b = y + chroma * (yuv[i][1] - 128) * 2 * (1 - blue);
        const double g = (y - red * r - blue * b) / (1 - red - blue);
        for (const auto &[c, value] : {std::pair{0, r}, {1, g}, {2, b}})
            worst = std::max(worst, std::fabs(std::clamp(value, 0.0, 255.0) - found.rgb[3 * i + std::size_t(c)]));
    }
    EXPECT_LE(worst, 0.6) << "colour " << colour;
}

TEST(Prepare, EveryColourOfYuvIsRight) {
    for (const es_colour colour : {ES_BT601, ES_BT709, ES_JPEG})
        for (int u = 0; u < 256; u += 5) {
            // A row of blocks for each V: each block has all Y of a residue class, so that all 256 Y meet some U, V.
            std::vector<std::array<int, 3>> yuv;
            for (int v = 0; v < 256; v += 3)
                for (int x = 0; x < 512; ++x) yuv.push_back({x % 256, u, v});
            const int height = int(yuv.size() / 512);
            Bytes nv12, yuyv;
            for (int y = 0; y < height; ++y)
                for (int x = 0; x < 512; ++x) {
                    const auto &p = yuv[std::size_t(512 * y + x)];
                    yuyv.push_back(std::uint8_t(p[0]));
                    yuyv.push_back(std::uint8_t(p[x % 2 != 0 ? 2 : 1]));
                }
            es_image image = image_of(ES_YUYV, 512, height, yuyv.data());
            image.colour = colour;
            expect_colour(colour, as_rgb(image), yuv);
            if (HasFailure()) return;
        }
}

TEST(Prepare, ChromaOfNv12BelongsToItsFourPixels) {
    const int width = 54, height = 38, stride = 60, chroma_stride = 70;
    const Bytes luma = noise(stride * height, 1), chroma = noise(chroma_stride * height / 2, 2);
    es_image nv12 = image_of(ES_NV12, width, height, luma.data(), stride);
    nv12.chroma = chroma.data(), nv12.chroma_stride = chroma_stride;
    Bytes yuyv;  // the same colours, row by row
    std::vector<std::array<int, 3>> yuv;
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) {
            const auto *pair = &chroma[std::size_t(y / 2 * chroma_stride + x / 2 * 2)];
            yuv.push_back({luma[std::size_t(y * stride + x)], pair[0], pair[1]});
            yuyv.insert(yuyv.end(), {luma[std::size_t(y * stride + x)], pair[x % 2]});
        }
    const es_image same = image_of(ES_YUYV, width, height, yuyv.data());
    for (const es_colour colour : {ES_BT601, ES_BT709, ES_JPEG}) {
        nv12.colour = colour;
        expect_colour(colour, as_rgb(nv12), yuv);
    }
    nv12.colour = ES_BT601;
    const Picture rgb = as_rgb(nv12);
    // Odd borders and odd cuts begin between two pixels, or rows, of one chroma.
    for (const int border : {0, 1, 2, 3, 5})
        for (const auto &[w, h] : {std::array{8, 8}, {8, 5}, {5, 8}, {13, 7}, {16, 12}, {40, 3}, {3, 31}})
            for (const bool crop : {true, false}) {
                const Geometry wanted = geometry(w, h, border, crop);
                const Bytes expected = reference(rgb, wanted).rgb;
                EXPECT_EQ(prepared(nv12, wanted), expected) << w << "x" << h << " border " << border;
                EXPECT_EQ(prepared(same, wanted), expected) << w << "x" << h << " border " << border;
            }
}

TEST(Prepare, ChromaFollowsLumaWhereNothingElseIsSaid) {
    const Bytes all = noise(100 * 48 + 100 * 24, 4);
    es_image image = image_of(ES_NV12, 90, 48, all.data(), 100);
    const Bytes found = prepared(image, geometry(32, 32));
    image.chroma = all.data() + 4800, image.chroma_stride = 100;
    EXPECT_EQ(prepared(image, geometry(32, 32)), found);
    image.chroma = nullptr, image.chroma_stride = 0, image.stride = 0;
    EXPECT_NE(prepared(image, geometry(32, 32)), found);
}

TEST(Prepare, TouchesNothingBeyondTheImageAndTheFrame) {
    for (const auto side : {Guarded::kBefore, Guarded::kBehind})
        for (const es_format format : {ES_RGB, ES_BGR, ES_RGBA, ES_NV12, ES_YUYV})
            for (const int gap : {0, 3})
                for (int width = 2; width <= 150; width += width < 70 ? 2 : 18)
                    for (const int height : {2, 6, 70}) {
                        const int bytes = format == ES_RGBA ? 4 : format == ES_NV12 ? 1 : format == ES_YUYV ? 2 : 3;
                        const int stride = width * bytes + gap, rows = format == ES_NV12 ? height * 3 / 2 : height;
                        const Guarded pixels(std::size_t((rows - 1) * stride + width * bytes), side);
                        const Guarded frame(3 * 8 * 6, side);
                        const es_image image = image_of(format, width, height, pixels.data(), stride);
                        check_image(image, width);
                        Preparer(geometry(8, 6, width > 20 && height > 20), width).run(image, frame.data());
                        Preparer(geometry(8, 6, 0, false), width).run(image, frame.data());
                    }
}

TEST(Prepare, RefusesWhatItCannotRead) {
    const Bytes pixels(64);
    const es_image good = image_of(ES_RGB, 4, 4, pixels.data());
    EXPECT_EQ(refusal(good), "");
    const auto changed = [&](auto change) {
        es_image image = good;
        change(image);
        return refusal(image);
    };
    const auto starts = [](const std::string &line, const char *with) {
        EXPECT_EQ(line.rfind(with, 0), 0u) << line;
        EXPECT_NE(line.find("; fix: "), std::string::npos) << line;
    };
    starts(changed([](es_image &i) { i.format = ES_GREY; }),
           "grey images cannot be classified, the networks need colour");
    for (const int format : {0, 7, -1, 1 << 30})
        starts(changed([&](es_image &i) { i.format = format; }), "unknown pixel format: got ");
    for (const int size : {0, -1, 16385, INT32_MIN, INT32_MAX}) {
        starts(changed([&](es_image &i) { i.width = size; }), "wrong image size: got ");
        starts(changed([&](es_image &i) { i.height = size; }), "wrong image size: got ");
    }
    starts(changed([](es_image &i) { i.width = 8193; }),
           "the image is wider than the model's buffers: got 8193 pixels; possible: 1 to 8192");
    EXPECT_EQ(changed([](es_image &i) { i.width = 8192; }), "");
    starts(changed([](es_image &i) { i.pixels = nullptr; }), "the image has no pixels: got es_image.pixels = NULL");
    for (const int stride : {-12, 11, 1, INT32_MIN})
        starts(changed([&](es_image &i) { i.stride = stride; }), "wrong image stride: got ");
    for (const int stride : {0, 12, 13, INT32_MAX}) EXPECT_EQ(changed([&](es_image &i) { i.stride = stride; }), "");
    EXPECT_EQ(changed([](es_image &i) { i.colour = 99, i.chroma_stride = -5; }), "") << "of YUV alone";

    const auto yuv = [&](es_format format, auto change) {
        return changed([&](es_image &i) {
            i.format = format;
            change(i);
        });
    };
    for (const es_format format : {ES_NV12, ES_YUYV}) {
        EXPECT_EQ(yuv(format, [](es_image &) {}), "");
        starts(yuv(format, [](es_image &i) { i.width = 3; }), "wrong image size for its format: got 3x4 ");
        starts(yuv(format, [](es_image &i) { i.colour = 3; }), "unknown colour matrix: got 3");
        starts(yuv(format, [](es_image &i) { i.colour = -1; }), "unknown colour matrix: got -1");
    }
    starts(yuv(ES_NV12, [](es_image &i) { i.height = 3; }), "wrong image size for its format: got 4x3 NV12");
    EXPECT_EQ(yuv(ES_YUYV, [](es_image &i) { i.height = 3; }), "");
    starts(yuv(ES_NV12, [](es_image &i) { i.chroma_stride = 3; }), "wrong chroma stride: got 3 bytes");
    starts(yuv(ES_NV12, [](es_image &i) { i.chroma_stride = -4; }), "wrong chroma stride: got -4 bytes");
}

}  // namespace
}  // namespace es
