// The C library of samples/c for C++17: objects close what they opened, and errors are exceptions.
//
//     adabet::Package package("device");
//     adabet::Data data{{x}, y};  // std::vectors, one sample after another; they must not be moved
//     auto scores = package.score(data);
//     adabet::Fit fit = package.defaults();
//     fit.entry = package.choose(scores, fit.batch_size, 64 << 20);
//     adabet::Model model = package.fit(data, fit).model.value();
//     std::vector<float> logits = model.predict<float>(data);
//     model.save_delta("me.safetensors");
#ifndef ADABET_HPP
#define ADABET_HPP

#include <adabet.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace adabet {

class Error : public std::runtime_error {
public:
    explicit Error(const adabet_error &error) : std::runtime_error(error.message), code_(error.code) {}
    adabet_code code() const noexcept { return code_; }

private:
    adabet_code code_;
};

namespace detail {

template <class Call> void check(Call call) {
    adabet_error error{};
    if (call(&error) != ADABET_OK) throw Error(error);
}

template <auto Free> struct Closer {
    template <class T> void operator()(T *what) const noexcept { Free(what); }
};

}  // namespace detail

// A view of numbers that the caller owns.
struct View {
    const void *data = nullptr;
    std::size_t bytes = 0;

    View() = default;
    View(const void *data_, std::size_t bytes_) : data(data_), bytes(bytes_) {}
    template <class T> View(const std::vector<T> &numbers) : data(numbers.data()), bytes(numbers.size() * sizeof(T)) {}
    template <class T> View(std::vector<T> &&) = delete;  // a temporary would be gone before it is read
};

// One array for each input of the model, and labels if they are needed.
struct Data {
    std::vector<View> inputs;
    View labels;
};

struct Score {
    std::string layer;
    double score;
};

struct Fit {
    std::size_t entry = 0;
    double learning_rate = 0;
    std::size_t batch_size = 0, epochs = 0;
    std::uint32_t seed = 0;
    std::string progress;  // a file; empty for none
    std::optional<Data> held_out;
    std::function<bool(const adabet_progress &)> watch;  // return false to stop; exceptions are rethrown by fit
};

class Model {
public:
    // Predicts all numbers of one output.
    template <class T> std::vector<T> predict(const Data &data, std::size_t output = 0) {
        if (data.inputs.empty() || output >= adabet_output_count(package_.get()))
            throw std::out_of_range("no such output");
        const std::size_t samples = data.inputs[0].bytes / adabet_input(package_.get(), 0).bytes;
        std::vector<T> numbers(samples * adabet_output(package_.get(), output).bytes / sizeof(T));
        std::vector<adabet_room> rooms(adabet_output_count(package_.get()), adabet_room{nullptr, 0});
        rooms[output] = {numbers.data(), numbers.size() * sizeof(T)};
        std::vector<adabet_array> arrays;
        for (const View &view : data.inputs) arrays.push_back({view.data, view.bytes});
        const adabet_data given{arrays.data(), arrays.size(), {nullptr, 0}};
        detail::check([&](adabet_error *error) { return adabet_predict(model_.get(), &given, rooms.data(), error); });
        return numbers;
    }
    void save_delta(const std::string &path) const {
        detail::check([&](adabet_error *error) { return adabet_save_delta(model_.get(), path.c_str(), error); });
    }
    void save_selected(const std::string &path) const {
        detail::check([&](adabet_error *error) { return adabet_save_selected(model_.get(), path.c_str(), error); });
    }
    std::size_t entry() const noexcept { return adabet_model_entry(model_.get()); }

private:
    friend class Package;
    Model(std::shared_ptr<adabet_package> package, adabet_model *model) : package_(std::move(package)), model_(model) {}
    std::shared_ptr<adabet_package> package_;  // closed after the last model
    std::unique_ptr<adabet_model, detail::Closer<adabet_model_free>> model_;
};

// code: ADABET_OK, ADABET_CANCELLED or ADABET_NOT_FINITE; the model of the last complete epoch, if any.
struct Fitted {
    std::optional<Model> model;
    adabet_code code;
    std::string message;
};

class Package {
public:
    explicit Package(const std::string &folder, const std::string &onnxruntime = {}, int threads = 1) {
        const adabet_open_options options{onnxruntime.empty() ? nullptr : onnxruntime.c_str(), threads};
        adabet_package *opened = nullptr;
        detail::check([&](adabet_error *error) { return adabet_open(folder.c_str(), &options, &opened, error); });
        package_.reset(opened, adabet_close);
    }

    std::vector<Score> score(const Data &data) {
        std::vector<double> numbers(adabet_scored_layer_count(get()) + 1);
        const Given given(data);
        detail::check([&](adabet_error *error) {
            return adabet_score(get(), &given.data, nullptr, nullptr, numbers.data(), error);
        });
        std::vector<Score> scores;
        for (std::size_t i = 0; i + 1 < numbers.size(); i++)
            scores.push_back({adabet_scored_layer(get(), i), numbers[i]});
        return scores;
    }

    std::size_t choose(const std::vector<Score> &scores, std::size_t batch_size,
                       std::uint64_t memory = UINT64_MAX) const {
        std::vector<double> numbers;
        std::size_t entry = 0;
        if (scores.size() != adabet_scored_layer_count(get())) throw std::invalid_argument("the scores belong to another package");
        for (const Score &score : scores) numbers.push_back(score.score);
        numbers.push_back(0);
        detail::check([&](adabet_error *error) {
            return adabet_choose(get(), numbers.data(), batch_size, memory, &entry, error);
        });
        return entry;
    }

    Fit defaults() const {
        const adabet_fit_options from = adabet_fit_defaults(get());
        Fit fit;
        fit.learning_rate = from.learning_rate;
        fit.batch_size = from.batch_size;
        fit.epochs = from.epochs;
        fit.seed = from.seed;
        return fit;
    }

    Fitted fit(const Data &data, const Fit &how) {
        const Given given(data), held(how.held_out.value_or(Data{}));
        Watched watched{&how, nullptr};
        adabet_fit_options options{};
        options.entry = how.entry;
        options.learning_rate = how.learning_rate;
        options.batch_size = how.batch_size;
        options.epochs = how.epochs;
        options.seed = how.seed;
        options.progress = how.progress.empty() ? nullptr : how.progress.c_str();
        options.held_out = how.held_out ? &held.data : nullptr;
        options.watch = tell;
        options.user = &watched;
        adabet_model *made = nullptr;
        adabet_error error{};
        const adabet_code code = adabet_fit(get(), &given.data, &options, &made, &error);
        Fitted fitted{std::nullopt, code, error.message};
        if (made != nullptr) fitted.model = Model(package_, made);
        if (watched.thrown) std::rethrow_exception(watched.thrown);
        if (code != ADABET_OK && code != ADABET_CANCELLED && code != ADABET_NOT_FINITE) throw Error(error);
        return fitted;
    }

    Model initial(std::size_t entry = 0) {
        adabet_model *made = nullptr;
        detail::check([&](adabet_error *error) { return adabet_initial(get(), entry, &made, error); });
        return Model(package_, made);
    }
    Model load(const std::string &path) {
        adabet_model *made = nullptr;
        detail::check([&](adabet_error *error) { return adabet_load(get(), path.c_str(), &made, error); });
        return Model(package_, made);
    }

    std::size_t entry_count() const noexcept { return adabet_entry_count(get()); }
    adabet_entry entry(std::size_t which) const { return adabet_entry_at(get(), which); }
    adabet_package *get() const noexcept { return package_.get(); }  // for functions that are not wrapped

private:
    struct Given {
        explicit Given(const Data &from) {
            for (const View &view : from.inputs) arrays.push_back({view.data, view.bytes});
            data = {arrays.data(), arrays.size(), {from.labels.data, from.labels.bytes}};
        }
        Given(const Given &) = delete;
        Given &operator=(const Given &) = delete;
        std::vector<adabet_array> arrays;
        adabet_data data;
    };
    struct Watched {
        const Fit *fit;
        std::exception_ptr thrown;
    };
    static int tell(const adabet_progress *progress, void *user) noexcept {
        auto *watched = static_cast<Watched *>(user);
        try {
            return watched->fit->watch && !watched->fit->watch(*progress);
        } catch (...) {  // an exception must not pass through C
            watched->thrown = std::current_exception();
            return 1;
        }
    }
    std::shared_ptr<adabet_package> package_;
};

}  // namespace adabet

#endif
