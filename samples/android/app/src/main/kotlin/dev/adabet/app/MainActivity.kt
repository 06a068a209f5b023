package dev.adabet.app

import android.Manifest
import android.net.Uri
import android.os.Build
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.compose.foundation.clickable
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.RadioButton
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableIntStateOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import dev.adabet.app.logic.Hindrance
import dev.adabet.app.logic.Status
import dev.adabet.onnx.Description
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

class MainActivity : ComponentActivity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent {
            MaterialTheme {
                Surface { Opened(application as App) }
            }
        }
    }
}

/** Opens the package on a background thread, and shows errors. */
@Composable
private fun Opened(app: App) {
    var description by remember { mutableStateOf<Description?>(null) }
    var problem by remember { mutableStateOf<String?>(null) }
    LaunchedEffect(app) {
        try {
            description = withContext(Dispatchers.IO) {
                app.pictures
                app.device.description
            }
        } catch (error: Exception) {
            problem = error.message
        }
    }
    Column(Modifier.safeDrawingPadding().padding(16.dp).verticalScroll(rememberScrollState())) {
        val opened = description
        if (opened == null) Text(problem ?: "Opening the package") else Screen(app, opened)
    }
}

@Composable
private fun Screen(app: App, description: Description) {
    val status by app.status.collectAsStateWithLifecycle()
    val conditions by app.conditions.collectAsStateWithLifecycle()
    val classes = remember(description) {
        description.classNames ?: List(description.labels.classes?.toInt() ?: 0) { "class $it" }
    }
    var label by remember { mutableIntStateOf(0) }
    var count by remember { mutableIntStateOf(app.pictures.count) }
    var message by remember { mutableStateOf("") }
    val busy = status !is Status.Idle && status !is Status.Done && status !is Status.Failed

    Text(description.model, style = MaterialTheme.typography.headlineSmall)
    classes.forEachIndexed { i, name ->
        Row(Modifier.fillMaxWidth().clickable { label = i }, verticalAlignment = Alignment.CenterVertically) {
            RadioButton(selected = label == i, onClick = { label = i })
            Text(name)
        }
    }
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        PicturePicker("Add as ${classes.getOrNull(label)}", !busy) { uris ->
            message = added(app, uris, label)
            count = app.pictures.count
        }
        PicturePicker("Recognise", !busy) { uris -> message = recognised(app, uris.take(1), classes) }
    }
    Text("$count pictures. $message")
    Trainer(app, status, busy, enough = count >= LEAST, stopped = conditions.hindrance == Hindrance.STOPPED)
}

/** A button to pick pictures, which are processed on a background thread. */
@Composable
private fun PicturePicker(text: String, enabled: Boolean, picked: suspend (List<Uri>) -> Unit) {
    val scope = rememberCoroutineScope()
    val picker = rememberLauncherForActivityResult(ActivityResultContracts.PickMultipleVisualMedia()) { uris ->
        scope.launch { picked(uris) }
    }
    val request = PickVisualMediaRequest(ActivityResultContracts.PickVisualMedia.ImageOnly)
    OutlinedButton(onClick = { picker.launch(request) }, enabled = enabled) { Text(text) }
}

@Composable
private fun Trainer(app: App, status: Status, busy: Boolean, enough: Boolean, stopped: Boolean) {
    val asked = rememberLauncherForActivityResult(
        ActivityResultContracts.RequestPermission(),
    ) { TrainingService.start(app) }
    Text(text(status))
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        Button(
            enabled = enough && !busy,
            onClick = {
                if (Build.VERSION.SDK_INT < 33) TrainingService.start(app)
                else asked.launch(Manifest.permission.POST_NOTIFICATIONS)
            },
        ) { Text("Train") }
        OutlinedButton(enabled = busy, onClick = { app.conditions.update { it.copy(stopped = !stopped) } }) {
            Text(if (stopped) "Resume" else "Pause")
        }
        OutlinedButton(enabled = app.retraining.delta.isFile && !busy, onClick = { share(app, app.retraining.delta) }) {
            Text("Share")
        }
    }
}

private const val LEAST = 8

private suspend fun added(app: App, uris: List<Uri>, label: Int): String = withContext(Dispatchers.IO) {
    try {
        for (uri in uris) app.pictures.add(pixels(app, uri, app.pictures.layout), label)
        app.retraining.forget()
        "${uris.size} added"
    } catch (error: Exception) {
        error.message ?: "a picture cannot be read"
    }
}

private suspend fun recognised(
    app: App,
    uris: List<Uri>,
    classes: List<String>,
): String = withContext(Dispatchers.Default) {
    try {
        uris.joinToString { uri ->
            val best = app.recognise(pixels(app, uri, app.pictures.layout))
            classes.getOrElse(best) { "$best" }
        }
    } catch (error: Exception) {
        error.message ?: "the picture cannot be read"
    }
}
