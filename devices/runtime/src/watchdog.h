// Ends a run of an engine that takes too long, for engines that only another thread can stop.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "backend.h"
#include "fault.h"
#include "text.h"

namespace es {

// One run at a time. The thread is there from the first deadline on.
class Watchdog {
  public:
    // `end` stops the run, on the watchdog's thread; `allow` lets the next one start, on the caller's. Neither throws.
    Watchdog(std::function<void()> end, std::function<void()> allow) : end_(std::move(end)), allow_(std::move(allow)) {}
    Watchdog(const Watchdog &) = delete;
    Watchdog &operator=(const Watchdog &) = delete;
    ~Watchdog() {
        if (!thread_.joinable()) return;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            over_ = true;
        }
        wake_.notify_one();
        thread_.join();
    }

    // Throws Fault ES_ENGINE: no thread is to be had.
    void arm(Clock::time_point deadline) {
        if (!thread_.joinable()) start();
        bool sooner;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            deadline_ = deadline;
            fired_ = false;
            sooner = deadline < sleeps_until_;  // else it looks in time anyway: most runs never wake it
        }
        if (sooner) wake_.notify_one();
    }

    // Whether the run was ended.
    bool disarm() {
        const std::lock_guard<std::mutex> lock(mutex_);
        deadline_ = Clock::time_point::max();
        if (fired_) allow_();
        return fired_;
    }

  private:
    void start() {
        sigset_t all, before;  // a host's signals are for the host's threads
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            thread_ = std::thread(&Watchdog::watch, this);
        } catch (const std::system_error &error) {
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
            throw Fault(ES_ENGINE, told("no thread to watch the deadline", error.what(), "", "set deadline_ms to 0"));
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void watch() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!over_) {
            if (Clock::now() >= deadline_) {
                end_();
                fired_ = true;
                deadline_ = Clock::time_point::max();
            }
            const Clock::time_point until = sleeps_until_ = deadline_;
            if (until == Clock::time_point::max())
                wake_.wait(lock);
            else
                wake_.wait_until(lock, until);
            sleeps_until_ = Clock::time_point::min();  // awake: it sees a new deadline by itself
        }
    }

    const std::function<void()> end_, allow_;
    std::mutex mutex_;
    std::condition_variable wake_;
    Clock::time_point deadline_ = Clock::time_point::max(), sleeps_until_ = Clock::time_point::min();
    bool fired_ = false, over_ = false;
    std::thread thread_;
};

}  // namespace es
