// The quality gate by itself. That it says exactly what Python says is shown by tests/runtime/test_quality_parity.py.
#include "quality.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace {

using Frame = std::vector<std::uint8_t>;

constexpr int kSide = 128;

std::size_t at(int x, int y) { return 3 * static_cast<std::size_t>(y * kSide + x); }

Frame painted(const std::function<double(int, int, int)> &colour) {
    Frame frame(at(0, kSide));
    for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide; ++x)
            for (int c = 0; c < 3; ++c)
                frame[at(x, y) + static_cast<std::size_t>(c)] =
                    static_cast<std::uint8_t>(std::clamp(std::lround(colour(x, y, c)), 0L, 255L));
    return frame;
}

// Skin with a lesion and fine texture; the tint tells the two views apart.
Frame skin(double tint = 0, int shift = 0) {
    return painted([=](int x, int y, int c) {
        const double r = std::hypot(x - kSide / 2 + shift, y - kSide / 2);
        const double base = r < 30 ? 90 : 170;
        return base + (c == 0 ? 25 : c == 1 ? 0 : -20 + tint) + 14 * ((x / 2 + y / 2 + shift) % 2) - 0.1 * r;
    });
}

Frame changed(Frame frame, const std::function<double(double)> &by) {
    for (auto &value : frame) value = static_cast<std::uint8_t>(std::clamp(std::lround(by(value)), 0L, 255L));
    return frame;
}

Frame blurred(const Frame &frame) {
    return painted([&](int x, int y, int c) {
        double sum = 0;
        int count = 0;
        for (int dy = -4; dy <= 4; ++dy)
            for (int dx = -4; dx <= 4; ++dx)
                if (x + dx >= 0 && x + dx < kSide && y + dy >= 0 && y + dy < kSide) {
                    sum += frame[at(x + dx, y + dy) + static_cast<std::size_t>(c)];
                    ++count;
                }
        return sum / count;
    });
}

Frame rimmed(Frame frame) {
    for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide; ++x)
            if (std::hypot(x - kSide / 2, y - kSide / 2) > 0.48 * kSide) std::fill_n(&frame[at(x, y)], 3, std::uint8_t{5});
    return frame;
}

std::uint32_t flags_of(const Frame &frame, bool dermoscopic = true, const es::Quality &quality = {}) {
    es::Features features;
    return es::assess(frame.data(), kSide, kSide, dermoscopic, quality, features);
}

TEST(Quality, AGoodFrameHasNoFlag) {
    EXPECT_EQ(flags_of(skin()), 0u);
    EXPECT_EQ(flags_of(skin(), false), 0u);
}

TEST(Quality, EachFaultSetsItsFlagAlone) {
    EXPECT_EQ(flags_of(Frame(at(0, kSide), 0)), ES_Q_EMPTY);
    EXPECT_EQ(flags_of(Frame(at(0, kSide), 128)), ES_Q_EMPTY);
    EXPECT_EQ(flags_of(Frame(at(0, kSide), 255)), ES_Q_EMPTY);
    EXPECT_EQ(flags_of(changed(skin(), [](double v) { return 0.2 * v; })), ES_Q_DARK);
    EXPECT_EQ(flags_of(changed(skin(), [](double v) { return std::min(248.0, v + 75); })), ES_Q_BRIGHT);
    EXPECT_EQ(flags_of(changed(skin(), [](double v) { return v > 175 ? 255 : v; })), ES_Q_SATURATED);
    EXPECT_EQ(flags_of(blurred(blurred(skin()))), ES_Q_BLURRED);
    EXPECT_EQ(flags_of(rimmed(skin())), ES_Q_VIGNETTE);
    EXPECT_EQ(flags_of(rimmed(skin()), false), 0u) << "a photograph of the skin has no such rim";
}

TEST(Quality, PairFlagsHoldForBothImages) {
    const Frame one = skin(), other = skin(60, 25);
    std::uint32_t flags[2] = {99, 99};
    es::Quality quality;
    EXPECT_TRUE(es::judge(one.data(), other.data(), kSide, kSide, quality, flags));
    EXPECT_EQ(flags[0] | flags[1], 0u);
    EXPECT_FALSE(es::judge(one.data(), one.data(), kSide, kSide, quality, flags));
    EXPECT_EQ(flags[0], ES_Q_IDENTICAL);
    EXPECT_EQ(flags[1], ES_Q_IDENTICAL);
    quality.swapped_weights = {0, 0, 1, 0, 0, 0, 0, 0};  // the second is bluer: green - blue is less
    EXPECT_TRUE(es::judge(one.data(), other.data(), kSide, kSide, quality, flags));
    EXPECT_FALSE(es::judge(other.data(), one.data(), kSide, kSide, quality, flags));
    EXPECT_EQ(flags[0], ES_Q_SWAPPED);
    EXPECT_EQ(flags[1], ES_Q_SWAPPED);
}

TEST(Quality, WithoutWeightsNothingIsSwapped) {
    es::Quality quality;
    quality.swapped_threshold = std::int64_t{1} << 50;
    const Frame one = skin(), other = skin(60, 25);
    std::uint32_t flags[2];
    EXPECT_TRUE(es::judge(other.data(), one.data(), kSide, kSide, quality, flags));
}

TEST(Quality, NothingIsSaidOfAPairWithAnEmptyFrame) {
    const Frame black(at(0, kSide), 0);
    std::uint32_t flags[2];
    EXPECT_FALSE(es::judge(black.data(), black.data(), kSide, kSide, {}, flags));
    EXPECT_EQ(flags[0], ES_Q_EMPTY);
    EXPECT_EQ(flags[1], ES_Q_EMPTY);
}

TEST(Quality, OneImageAlone) {
    const Frame good = skin(), bad = blurred(good);
    std::uint32_t flags[2] = {99, 99};
    EXPECT_TRUE(es::judge(nullptr, good.data(), kSide, kSide, {}, flags));
    EXPECT_EQ(flags[0], 0u);
    EXPECT_EQ(flags[1], 0u);
    EXPECT_FALSE(es::judge(nullptr, bad.data(), kSide, kSide, {}, flags));
    EXPECT_EQ(flags[1], ES_Q_BLURRED);
}

TEST(Quality, OnlyWhatFailsRefuses) {
    const Frame rim = rimmed(skin()), bad = blurred(skin());
    std::uint32_t flags[2];
    es::Quality quality;
    EXPECT_TRUE(es::judge(nullptr, rim.data(), kSide, kSide, quality, flags));
    EXPECT_EQ(flags[1], ES_Q_VIGNETTE);
    quality.fails = ES_Q_VIGNETTE;
    EXPECT_FALSE(es::judge(nullptr, rim.data(), kSide, kSide, quality, flags));
    EXPECT_TRUE(es::judge(nullptr, bad.data(), kSide, kSide, quality, flags));
    EXPECT_EQ(flags[1], ES_Q_BLURRED);
}

// Frames of two libraries differ so: by one grey level, in a value here and there.
TEST(Quality, OneGreyLevelHereAndThereChangesNoFlag) {
    std::uint32_t state = 1;
    const auto noise = [&state](double value) {
        state = state * 1664525u + 1013904223u;
        const std::uint32_t drawn = state >> 27;
        return drawn == 0 ? value - 1 : drawn == 1 ? value + 1 : value;
    };
    for (const Frame &frame : {skin(), blurred(blurred(skin())), rimmed(skin()), Frame(at(0, kSide), 128)})
        for (int round = 0; round < 20; ++round) EXPECT_EQ(flags_of(changed(frame, noise)), flags_of(frame));
}

// No byte beyond the frame is read: under AddressSanitizer this fails if one is, whatever the width.
TEST(Quality, OddSizesStayInsideTheFrame) {
    for (int width = 32; width < 70; ++width)
        for (const int height : {32, 33, 47, 63}) {
            const std::size_t size = 3 * static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
            Frame frame(size), other(size, 200);
            for (std::size_t k = 0; k < size; ++k) frame[k] = static_cast<std::uint8_t>(37 * k);
            frame.shrink_to_fit();
            std::uint32_t flags[2];
            es::judge(frame.data(), other.data(), width, height, {}, flags);
            EXPECT_EQ(flags[1], ES_Q_EMPTY) << width << " x " << height;
        }
}

TEST(Quality, LimitsAtTheirEnds) {
    es::Quality quality;
    quality.saturated_level = 256, quality.dark_luma = 256, quality.dark_share = 10000;
    es::Features features;
    const Frame good = skin();
    es::assess(good.data(), kSide, kSide, true, quality, features);
    EXPECT_EQ(features.saturated, 0);
    EXPECT_EQ(features.dark, 10000);
    quality.bright_luma = 0;
    es::assess(good.data(), kSide, kSide, true, quality, features);
    EXPECT_EQ(features.bright, 10000);
}

}  // namespace
