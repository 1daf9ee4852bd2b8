// Logits -> decision, on numbers worked by hand.
#include "decide.h"

#include <gtest/gtest.h>

#include <cmath>

namespace es {
namespace {

// Two tasks: a diagnosis of three classes, whose last two are the target, and a sign of two.
Manifest manifest() {
    Manifest made;
    Task diagnosis, sign;
    diagnosis.name = "DIAG", diagnosis.classes = {"NEV", "BCC", "MEL"}, diagnosis.points = {0, 0, 0};
    diagnosis.dermoscopic_weight = 0.75, diagnosis.temperature_clinical = 2;
    sign.name = "PN", sign.classes = {"ABS", "ATP"}, sign.points = {1, 2};
    sign.dermoscopic_weight = 0, sign.temperature_alone = 0.5;
    made.tasks = {diagnosis, sign};
    made.logits = 5, made.target_task = 0, made.positive = {1, 2}, made.has_score = true;
    made.thresholds = {0.5, 0.6};
    return made;
}

const float kLog2 = std::log(2.0f), kLog3 = std::log(3.0f);

TEST(Decide, GivesAFusedHeadItsShare) {
    Manifest with = manifest();
    with.fused_head = true;
    with.tasks[0].fused_weight = 0.4, with.tasks[0].temperature_fused = 0.5;
    // As below, and a third row: at temperature 0.5, log 2 and log 3 -> weights 4, 9, 1.
    const float logits[] = {2 * kLog2, 0, 0, kLog3, 0, 0, kLog3, kLog3 + kLog2, 0, 5, kLog2, kLog3, 0, 0, kLog3};
    es_result result;
    ES_INIT(result);
    decide(with, kPair, logits, result);
    const double two[] = {0.2, 0.2875, 0.5125}, third[] = {4 / 14.0, 9 / 14.0, 1 / 14.0};
    for (int i = 0; i < 3; ++i) {
        EXPECT_NEAR(result.fused[i], third[i], 1e-7) << i;
        EXPECT_NEAR(result.probabilities[i], 0.6 * two[i] + 0.4 * third[i], 1e-7) << i;
    }
    EXPECT_EQ(result.has_fused, 1);
    EXPECT_EQ(result.predicted[0], 1) << "without the head it is the third class";
    EXPECT_NEAR(result.probabilities[3], 0.75, 1e-7) << "no weight in this task";
    EXPECT_NEAR(result.fused[4], 0.75, 1e-7);
    decide(with, kDermoscopic, logits, result);  // the dermoscopic image alone has no third row
    EXPECT_EQ(result.has_fused, 0);
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(result.fused[i], 0);
        EXPECT_EQ(result.probabilities[i], result.dermoscopic[i]);
    }
}

TEST(Decide, FusesBothImages) {
    // Clinical, at temperature 2: 2 log 2 -> weights 2, 1, 1. Dermoscopic: 1, 3, 6.
    const float logits[] = {2 * kLog2, 0, 0, kLog3, 0, 0, kLog3, kLog3 + kLog2, 0, 5};
    es_result result;
    ES_INIT(result);
    decide(manifest(), kPair, logits, result);
    const double expected[] = {0.25 * 0.5 + 0.75 * 0.1, 0.25 * 0.25 + 0.75 * 0.3, 0.25 * 0.25 + 0.75 * 0.6, 0.75, 0.25};
    for (int i = 0; i < 5; ++i) EXPECT_NEAR(result.probabilities[i], expected[i], 1e-7) << i;
    EXPECT_NEAR(result.clinical[0], 0.5, 1e-7);
    EXPECT_NEAR(result.dermoscopic[0], 0.1, 1e-7);
    EXPECT_NEAR(result.dermoscopic[4], 1 / (1 + std::exp(-5.0)), 1e-7);
    EXPECT_EQ(result.predicted[0], 2);
    EXPECT_EQ(result.predicted[1], 0) << "the clinical image alone has a say in this task";
    EXPECT_EQ(result.score, 1);
    EXPECT_NEAR(result.target_probability, expected[1] + expected[2], 1e-7);
    EXPECT_EQ(result.threshold, 0.6);
    EXPECT_EQ(result.refer, 1);
}

TEST(Decide, DermoscopicAloneHasItsOwnTemperatureAndThreshold) {
    const float logits[] = {kLog2, 0, 0, 0, kLog3};
    es_result result;
    ES_INIT(result);
    decide(manifest(), kDermoscopic, logits, result);
    const double expected[] = {0.5, 0.25, 0.25, 0.1, 0.9};
    for (int i = 0; i < 5; ++i) {
        EXPECT_NEAR(result.probabilities[i], expected[i], 1e-7) << i;
        EXPECT_EQ(result.dermoscopic[i], result.probabilities[i]);
        EXPECT_EQ(result.clinical[i], 0);
    }
    EXPECT_EQ(result.predicted[1], 1);
    EXPECT_EQ(result.score, 2);
    EXPECT_EQ(result.threshold, 0.5);
}

TEST(Decide, RefersAtTheThresholdItself) {
    Manifest at = manifest();
    const float logits[] = {0, 0, 0, 0, 0};
    es_result result;
    ES_INIT(result);
    decide(at, kDermoscopic, logits, result);
    EXPECT_EQ(result.refer, 1);
    at.thresholds[kDermoscopic] = result.target_probability;
    decide(at, kDermoscopic, logits, result);
    EXPECT_EQ(result.refer, 1);
    at.thresholds[kDermoscopic] = std::nextafter(result.target_probability, 1.0);
    decide(at, kDermoscopic, logits, result);
    EXPECT_EQ(result.refer, 0);
}

TEST(Decide, TakesTheFirstOfEqualClasses) {
    const float logits[] = {-1, 4, 4, 0, 0};
    es_result result;
    ES_INIT(result);
    decide(manifest(), kDermoscopic, logits, result);
    EXPECT_EQ(result.predicted[0], 1);
    EXPECT_EQ(result.predicted[1], 0);
}

TEST(Decide, HoldsOutLargeLogits) {
    const float logits[] = {3e38f, 0, -3e38f, -1000, -1001};
    es_result result;
    ES_INIT(result);
    decide(manifest(), kDermoscopic, logits, result);
    EXPECT_EQ(result.probabilities[0], 1);
    EXPECT_NEAR(result.probabilities[3], 1 / (1 + std::exp(-2.0)), 1e-12);
}

TEST(Decide, CountsNoPointsWithoutAScore) {
    Manifest plain = manifest();
    plain.has_score = false;
    const float logits[] = {0, 0, 0, 0, 0};
    es_result result;
    ES_INIT(result);
    result.has_score = 1, result.score = 7;
    decide(plain, kDermoscopic, logits, result);
    EXPECT_EQ(result.has_score, 0);
    EXPECT_EQ(result.score, 0);
}

}  // namespace
}  // namespace es
