// Tasks, classes and how two images become one probability: the rules of edgeskin/spec/schema.py and train.py.
#include "schema_json.h"

#include <algorithm>

#include "text.h"

namespace es {
namespace {

Task read_task(const Node &node) {
    node.only({"name", "title", "column", "classes"});
    Task task;
    task.name = node.at("name").text();
    const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto word = [&](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '_'; };
    if (!letter(task.name[0]) || !std::all_of(task.name.begin(), task.name.end(), word)) {
        node.at("name").refuse("a letter, then letters, digits and _");
    }
    for (const Node &entry : node.at("classes").list(2, ES_MAX_LOGITS)) {
        entry.only({"name", "title", "values", "points"});
        const std::string name = entry.at("name").text();
        const auto points = entry.find("points");
        if (std::count(task.classes.begin(), task.classes.end(), name)) entry.fault("class names repeat", shown(name));
        task.classes.push_back(name);
        task.points.push_back(points ? static_cast<int>(points->integer(0, 1000000)) : 0);
    }
    return task;
}

}  // namespace

void read_schema(const Node &node, Manifest &made) {
    node.only({"name", "title", "tasks", "target", "score"});
    for (const Node &entry : node.at("tasks").list(1, ES_MAX_TASKS)) {
        Task task = read_task(entry);
        for (const Task &other : made.tasks) {
            if (other.name == task.name) entry.fault("task names repeat", task.name);
        }
        made.logits += task.classes.size();
        made.tasks.push_back(std::move(task));
    }
    if (made.logits > ES_MAX_LOGITS) {
        node.fault("more classes than " + std::to_string(ES_MAX_LOGITS), std::to_string(made.logits));
    }
    const Node target = node.at("target");
    target.only({"task", "positive", "title"});
    const std::string name = target.at("task").text();
    const auto same = [&](const Task &task) { return task.name == name; };
    const auto found = std::find_if(made.tasks.begin(), made.tasks.end(), same);
    if (found == made.tasks.end()) target.at("task").refuse("the name of a task");
    made.target_task = static_cast<std::size_t>(found - made.tasks.begin());
    for (const Node &entry : target.at("positive").list(1, found->classes.size())) {
        const auto at = std::find(found->classes.begin(), found->classes.end(), entry.text());
        const auto number = static_cast<std::size_t>(at - found->classes.begin());
        if (at == found->classes.end() || std::count(made.positive.begin(), made.positive.end(), number)) {
            entry.refuse("classes of task " + name + ", each once");  // once: its probability must not count twice
        }
        made.positive.push_back(number);
    }
    const auto title = target.find("title");
    made.target_title = title ? title->text(0) : "melanoma";
    const auto score = node.find("score");
    made.has_score = score && !score->is_null();
    if (made.has_score) score->at("thresholds").list(1, 100);
}

void read_fusion(const Node &node, Manifest &made) {
    if (node.members(ES_MAX_TASKS).size() != made.tasks.size()) node.fault("must name every task of the schema", "");
    for (Task &task : made.tasks) {
        const Node entry = node.at(task.name.c_str());
        entry.only({"dermoscopic_weight", "temperature_dermoscopic", "temperature_clinical", "temperature_alone",
                    "fused_weight", "temperature_fused"});
        task.dermoscopic_weight = entry.at("dermoscopic_weight").number(0, 1);
        const auto temperature = [&](const char *key) {
            const auto found = entry.find(key);
            return found ? found->positive() : 1.0;
        };
        task.temperature_clinical = temperature("temperature_clinical");
        task.temperature_dermoscopic = temperature("temperature_dermoscopic");
        task.temperature_alone = temperature("temperature_alone");
        task.temperature_fused = temperature("temperature_fused");
        if (const auto weight = entry.find("fused_weight")) task.fused_weight = weight->number(0, 1);
        if (!made.fused_head && (task.fused_weight != 0 || task.temperature_fused != 1)) {
            entry.fault("asks a fused head, which the network has not", "");
        }
    }
}

}  // namespace es
